"""Further texts and pairs from those that are there, for a teacher to judge: nobody has to label them.

Words are lost, neighbours change places, halves of two texts are joined. None of these keeps the meaning for certain,
and none has to: the teacher says what the new text is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtime.contract import Pair


def vary_texts(texts: Sequence[str], copies: int, drop_words: float, seed: int) -> list[str]:
    """`copies` variants of each text, different from all texts and from each other; fewer where there are none left.

    Half of them lose words, each with the chance `drop_words`; a quarter swaps two neighbours; a quarter goes on as
    another text does. A text without spaces (Chinese) is taken for a row of characters.
    """
    random = np.random.default_rng([seed, 1])
    known = set(texts)
    made = []
    for text in [text for _ in range(copies) for text in texts]:
        variant = _variant(text, texts, drop_words, random)
        if variant not in known:
            known.add(variant)
            made.append(variant)
    return made


def recombine_pairs(pairs: Sequence[Pair], count: int, drop_words: float, seed: int) -> list[Pair]:
    """`count` new pairs of the texts that stand in `pairs`; fewer where hardly any are left.

    A third are two texts drawn at random, a third the partners of one text with each other (A-B and B-C give A-C), a
    third a pair whose second text is a variant of itself.
    """
    random = np.random.default_rng([seed, 2])
    texts = sorted({text for pair in pairs for text in (pair.text_a, pair.text_b)})
    partners: dict[str, list[str]] = {}
    for pair in pairs:
        partners.setdefault(pair.text_a, []).append(pair.text_b)
        partners.setdefault(pair.text_b, []).append(pair.text_a)
    known = set(pairs)
    made: list[Pair] = []
    for number in range(count):
        pair = pairs[int(random.integers(len(pairs)))]
        if number % 3 == 0:
            new = Pair(pair.text_a, texts[int(random.integers(len(texts)))])
        elif number % 3 == 1:
            others = partners[pair.text_b]
            new = Pair(pair.text_a, others[int(random.integers(len(others)))])
        else:
            new = Pair(pair.text_a, _variant(pair.text_b, texts, drop_words, random))
        if new not in known and new.text_a != new.text_b:
            known.add(new)
            made.append(new)
    return made


def _variant(text: str, texts: Sequence[str], drop_words: float, random: np.random.Generator) -> str:
    words, gap = _words(text)
    choice = random.random()
    if choice < 0.5:
        words = [word for word, chance in zip(words, random.random(len(words)), strict=True) if chance >= drop_words]
    elif choice < 0.75 and len(words) > 1:
        place = int(random.integers(len(words) - 1))
        words[place], words[place + 1] = words[place + 1], words[place]
    else:
        others, _ = _words(texts[int(random.integers(len(texts)))])
        words = words[: (len(words) + 1) // 2] + others[len(others) // 2 :]
    return gap.join(words) or text


def _words(text: str) -> tuple[list[str], str]:
    """The words and what stands between them."""
    words = text.split()
    return (words, " ") if len(words) > 1 else (list(text.strip()), "")
