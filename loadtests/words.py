"""The vocabulary that the seeded texts are composed from; data only, the composing is in texts.py."""

OPENERS = ("", "", "", "Hi, ", "Hello there, ", "Sorry to bother you, ", "Quick question: ", "Urgent! ", "Again: ")

SUBJECTS = (
    "card", "virtual card", "transfer", "top-up", "refund", "direct debit", "standing order", "cash withdrawal",
    "exchange rate", "statement", "PIN", "passcode", "account limit", "identity check", "cheque", "cashback",
    "salary payment", "joint account", "savings pot", "mobile wallet", "payee", "invoice", "overdraft", "receipt",
)  # fmt: skip

STATES = (
    "still pending", "declined", "missing", "charged twice", "blocked", "not showing", "wrong", "delayed", "expired",
    "frozen", "reverted", "cancelled", "stuck", "lost in the post", "refused by the machine", "higher than expected",
)  # fmt: skip

VERBS = (
    "cancel", "activate", "replace", "track", "verify", "change", "dispute", "increase", "close", "link", "reorder",
    "trace", "unblock", "download", "split", "schedule", "reverse", "approve", "share", "delete",
)  # fmt: skip

TIMES = (
    "yesterday", "this morning", "last Friday", "two weeks ago", "on the 3rd", "since Monday", "an hour ago",
    "over the weekend", "while I was abroad", "before the holiday", "just now", "at midnight", "in March",
)  # fmt: skip

PLACES = (
    "Lisbon", "Kraków", "Zürich", "São Paulo", "Osaka", "Nairobi", "Montréal", "Tromsø", "Reykjavík", "Hanoi",
    "Gdańsk", "Lima", "Galway", "İzmir", "Utrecht", "Porto", "Aberdeen", "Cusco", "Tallinn", "Perth",
)  # fmt: skip

PEOPLE = (
    "Amara Okafor", "Jón Einarsson", "Mei-Ling Chen", "Priya Nair", "Tomasz Wójcik", "Lucía Fernández", "Omar Haddad",
    "Siobhán Byrne", "Yuki Tanaka", "Noah Becker", "Zeynep Arslan", "Kofi Mensah", "Ingrid Dahl", "Rafael Costa",
)  # fmt: skip

CURRENCIES = ("£", "€", "$", "CHF ", "¥", "zł ")

CLOSINGS = (
    "", "", "Please help.", "What should I do?", "Is that normal?", "How long does it take?", "Can somebody look?",
    "I have already tried it twice.", "The app only shows an error.", "Nobody has answered my last message.",
)  # fmt: skip

PRODUCTS = (
    "running shoes", "desk lamp", "espresso machine", "rain jacket", "USB-C cable", "trail backpack", "office chair",
    "bluetooth speaker", "cast-iron pan", "winter tyre", "yoga mat", "mechanical keyboard", "water bottle", "tent",
)  # fmt: skip

MATERIALS = ("steel", "cotton", "recycled nylon", "oak", "leather", "carbon", "glass", "bamboo", "merino", "aluminium")

COLOURS = ("black", "navy", "olive", "sand", "white", "burgundy", "teal", "graphite", "mustard", "sky blue")

ABROAD = (
    "¿Por qué mi transferencia sigue pendiente?", "Meine Karte wurde am Automaten eingezogen.",
    "Je ne reçois pas le code de vérification.", "我的卡在自动取款机上被吞了。", "なぜ二重に請求されたのですか？",
    "Почему отклонили мой платёж?", "لماذا تأخر التحويل؟", "मेरा कार्ड अब तक नहीं आया।", "Kartım neden bloke edildi? 🤔",
)  # fmt: skip

STORY_OPENINGS = (
    "Once upon a time", "Long ago", "One rainy morning", "On the edge of the forest", "At the end of the pier",
    "Before the war", "In a town without clocks", "When the snow melted", "The day the market closed",
    "Nobody remembered how", "Every summer", "High above the valley",
)  # fmt: skip

HEROES = (
    "a small fox", "the old miller", "a girl named Ada", "two brothers", "the king's cook", "a tired sailor",
    "a clever crow", "the youngest queen", "a boy with one shoe", "the lighthouse keeper", "a talking kettle",
)  # fmt: skip

DEEDS = (
    "found a key under the stairs", "wanted to cross the river", "lost a red balloon", "heard a knock at the door",
    "planted a silver seed", "could not fall asleep", "built a boat out of paper", "told the truth for once",
    "followed the music", "carried a lantern up the hill", "swore never to return", "shared the last loaf of bread",
)  # fmt: skip

LINKS = ("and", "but", "because", "so", "until", "while", "although", "and then", "for", "yet")
