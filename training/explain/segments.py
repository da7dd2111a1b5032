"""What a text is made of, in any script: its words, each with its place; a Chinese or Japanese character is one."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

from records.entities import is_record, parse_record

IDEOGRAPH = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_WORD = re.compile(rf"[{IDEOGRAPH}]|(?:(?![{IDEOGRAPH}])[^\W_])+(?:['’](?:(?![{IDEOGRAPH}])[^\W_])+)*")
_IDEOGRAPH = re.compile(rf"[{IDEOGRAPH}]")
LEAST_SHARE = 0.1  # of a text's letters, for a script to count as one of its scripts

Span = tuple[int, int]


def spans(text: str) -> Iterator[Span]:
    """Where each word begins and ends."""
    return (match.span() for match in _WORD.finditer(text))


def words(text: str) -> list[str]:
    """The words in lower case, in order."""
    return [match.group().lower().replace("’", "'") for match in _WORD.finditer(text)]


def terms(text: str) -> set[str]:
    """What a text is about: its words, and of ideographs every two neighbours, which are a word more often than one."""
    found = words(text)
    alone = {word for word in found if not _IDEOGRAPH.match(word)}
    pairs = {a + b for a, b in pairwise(found) if _IDEOGRAPH.match(a) and _IDEOGRAPH.match(b)}
    return alone | pairs


def is_ideographic(text: str) -> bool:
    """Whether it is written, for the most part, in Chinese or Japanese characters."""
    found = words(text)
    return sum(bool(_IDEOGRAPH.match(word)) for word in found) * 2 > len(found)


def fields(text: str) -> dict[str, str]:
    """Of a record in the layout "COL name VAL value COL …" (Ditto, Li et al., VLDB 2020): its values by name."""
    return parse_record(text) if is_record(text) else {}


def script(text: str) -> str:
    """The scripts of its letters as Unicode calls them, such as "Latin" or "Han+Latin"; "" where it has no letters."""
    counts = Counter(found for character in text if (found := _script(character)))
    least = LEAST_SHARE * counts.total()
    return "+".join(sorted(name for name, count in counts.items() if count >= least))


@lru_cache(maxsize=4096)
def _script(character: str) -> str:
    if not character.isalpha():
        return ""
    name = unicodedata.name(character, "").partition(" ")[0].capitalize()
    return "Han" if name == "Cjk" else name
