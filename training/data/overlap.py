"""Pairs that stand twice: within a split (duplicates) and in two splits (leakage), in the same order or swapped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from training.data.pairs import LabelledPair

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Repeat:
    """Row `later` has the pair of row `first`; `swapped`: with text_a and text_b exchanged."""

    first: LabelledPair
    later: LabelledPair

    @property
    def swapped(self) -> bool:
        return self.first.text_a != self.later.text_a

    @property
    def conflicting(self) -> bool:
        return self.first.label != self.later.label

    def __str__(self) -> str:
        what = "the swapped pair of" if self.swapped else "the same pair as"
        labels = f", labelled {self.later.label!r} and {self.first.label!r}" if self.conflicting else ""
        return f"{self.later.where} is {what} {self.first.where}{labels}"


def key_of(pair: LabelledPair) -> Key:
    """The two texts in a fixed order."""
    return (pair.text_a, pair.text_b) if pair.text_a <= pair.text_b else (pair.text_b, pair.text_a)


def duplicates(rows: Sequence[LabelledPair]) -> list[Repeat]:
    """Every row whose pair stood before in `rows`."""
    seen: dict[Key, LabelledPair] = {}
    found = []
    for row in rows:
        first = seen.setdefault(key_of(row), row)
        if first is not row:
            found.append(Repeat(first, row))
    return found


def leaks(earlier: Sequence[LabelledPair], later: Sequence[LabelledPair]) -> list[Repeat]:
    """Every row of `later` whose pair stands in `earlier` (`first` is the first of these)."""
    seen: dict[Key, LabelledPair] = {}
    for row in earlier:
        seen.setdefault(key_of(row), row)
    return [Repeat(seen[key], row) for row in later if (key := key_of(row)) in seen]


def shared_texts(earlier: Sequence[LabelledPair], later: Sequence[LabelledPair]) -> int:
    """How many different texts of `later` stand anywhere in `earlier`: no leak by itself, but good to know."""
    texts = [{text for row in rows for text in (row.text_a, row.text_b)} for rows in (earlier, later)]
    return len(texts[0] & texts[1])
