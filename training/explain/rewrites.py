"""Small changes to a text, for behavioural tests. Each returns None where it has nothing to change.

`chance` decides where a typo falls; everything else is the same each time.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from training.explain.features import has_negation
from training.explain.segments import fields, is_ideographic, spans

Rewrite = Callable[[str, random.Random], str | None]
_AUXILIARY = re.compile(r"\b(is|are|was|were|can|could|will|would|should|do|does|did|have|has|must)\b", re.IGNORECASE)
_CHINESE_AUXILIARY = re.compile("是|会|能|可以|要|应该|在")
_DIGITS = re.compile(r"\d+")
_ENDS = "?!.。？！…"


def rewritten(rewrite: Rewrite, text: str, chance: random.Random) -> str | None:
    """`text` by `rewrite`; of a record in the layout "COL name VAL value", the first value that has what it takes: what
    an attribute is called is nobody's typing."""
    record = fields(text)
    for name, value in record.items():
        changed = rewrite(value, chance) if value else None
        if changed is not None:
            return " ".join(f"COL {each} VAL {held}".rstrip() for each, held in (record | {name: changed}).items())
    return None if record else rewrite(text, chance)


def other_case(text: str, chance: random.Random) -> str | None:
    """All letters small; where they are already, all capital."""
    lower = text.lower()
    changed = lower if lower != text else text.upper()
    return changed if changed != text else None


def typo(text: str, chance: random.Random) -> str | None:
    """Two neighbouring letters of a long word exchanged; in Chinese, a character typed twice."""
    if is_ideographic(text):
        places = [begin for begin, _ in spans(text)]
        if len(places) < 4:
            return None
        at = chance.choice(places)
        return text[: at + 1] + text[at:]
    inner = [
        at
        for begin, end in spans(text)
        if end - begin >= 5 and text[begin:end].isalpha()
        for at in range(begin + 1, end - 2)
        if text[at].lower() != text[at + 1].lower()
    ]
    if not inner:
        return None
    at = chance.choice(inner)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def spaces(text: str, chance: random.Random) -> str | None:
    """Each space twice, and one around the whole."""
    return f" {text.replace(' ', '  ')} "


def punctuation(text: str, chance: random.Random) -> str | None:
    """The mark at the end taken off; where there is none, a full stop put there."""
    bare = text.rstrip(_ENDS + " ")
    if not bare:
        return None
    return bare if bare != text else text + ("。" if is_ideographic(text) else ".")


def negated(text: str, chance: random.Random) -> str | None:
    """The opposite: "not" after the first auxiliary verb, 不 before it in Chinese; None where it denies already."""
    if has_negation(text):
        return None
    if is_ideographic(text):
        found = _CHINESE_AUXILIARY.search(text)
        return text[: found.start()] + "不" + text[found.start() :] if found else None
    found = _AUXILIARY.search(text)
    if not found:
        return None
    # A question turns the verb around: "can I pay" is denied by "can I not pay".
    following = re.match(r"\s+(I|you|he|she|it|we|they|there|this|that)\b", text[found.end() :])
    at = found.end() + (following.end() if following else 0)
    return f"{text[:at]} not{text[at:]}"


def other_number(text: str, chance: random.Random) -> str | None:
    """Its first number another one of as many digits."""
    found = _DIGITS.search(text)
    if not found:
        return None
    digits = found.group()
    changed = "".join(str((int(digit) + 3) % 10) for digit in digits)
    if changed[0] == "0" != digits[0]:
        changed = "7" + changed[1:]
    return text[: found.start()] + changed + text[found.end() :]
