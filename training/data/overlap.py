"""Rows that stand twice, whatever their label: within a split (duplicates) and in two splits (leakage). A pair is the
same in the other order too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Key = tuple[str, ...]


class Row(Protocol):
    """A row of data: `texts` are given, `label` is to be found. `where` is file:line."""

    @property
    def texts(self) -> tuple[str, ...]: ...

    @property
    def label(self) -> str: ...

    @property
    def where(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Repeat:
    """Row `later` has the texts of row `first`; `swapped`: in the other order."""

    first: Row
    later: Row

    @property
    def swapped(self) -> bool:
        return self.first.texts != self.later.texts

    @property
    def conflicting(self) -> bool:
        return self.first.label != self.later.label

    def __str__(self) -> str:
        if len(self.later.texts) == 1:
            target = ", with another target" if self.conflicting else ""
            return f"{self.later.where} has the same source as {self.first.where}{target}"
        what = "the swapped pair of" if self.swapped else "the same pair as"
        labels = f", labelled {self.later.label!r} and {self.first.label!r}" if self.conflicting else ""
        return f"{self.later.where} is {what} {self.first.where}{labels}"


def key_of(row: Row) -> Key:
    """The texts in a fixed order."""
    return tuple(sorted(row.texts))


def duplicates(rows: Sequence[Row]) -> list[Repeat]:
    """Every row whose texts stood before in `rows`."""
    seen: dict[Key, Row] = {}
    found = []
    for row in rows:
        first = seen.setdefault(key_of(row), row)
        if first is not row:
            found.append(Repeat(first, row))
    return found


def leaks(earlier: Sequence[Row], later: Sequence[Row]) -> list[Repeat]:
    """Every row of `later` whose texts stand in `earlier` (`first` is the first of these)."""
    seen: dict[Key, Row] = {}
    for row in earlier:
        seen.setdefault(key_of(row), row)
    return [Repeat(seen[key], row) for row in later if (key := key_of(row)) in seen]


def shared_texts(earlier: Sequence[Row], later: Sequence[Row]) -> int:
    """How many different texts of `later` stand anywhere in `earlier`: no leak by itself, but good to know."""
    texts = [{text for row in rows for text in row.texts} for rows in (earlier, later)]
    return len(texts[0] & texts[1])
