"""Rows that cannot all be right where matching is an equivalence: a matches b, b matches c, and a does not match c.

The wrong one is any of the three; each is named, with the others, and a person decides.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass

LONGEST_CHAIN = 3  # matching rows between the two texts; one wrong row in a long chain would accuse whole groups


@dataclass(frozen=True, slots=True)
class Contradiction:
    """`chain`: matching rows, one after the other, that lead from one text of row `apart` to its other text."""

    apart: int
    chain: tuple[int, ...]


def contradictions(pairs: Sequence[tuple[int, int]], match: Sequence[bool]) -> list[Contradiction]:
    """Rows as pairs of texts (or of groups of like texts), and which are labelled a match -> every row that is not, and
    whose texts a chain of at most LONGEST_CHAIN matching rows joins; the shortest chain is given."""
    around: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)  # text -> (text, row)
    for row, ((one, other), same) in enumerate(zip(pairs, match, strict=True)):
        if same:
            around[one].append((other, row))
            around[other].append((one, row))
    found = []
    for row, ((one, other), same) in enumerate(zip(pairs, match, strict=True)):
        if not same and one in around and other in around and one != other:
            chain = _chain(around, one, other)
            if chain:
                found.append(Contradiction(row, chain))
    return found


def _chain(around: dict[int, list[tuple[int, int]]], start: int, goal: int) -> tuple[int, ...]:
    """Rows of the shortest way from `start` to `goal`; nothing where it is longer than LONGEST_CHAIN."""
    seen = {start}
    waiting: deque[tuple[int, tuple[int, ...]]] = deque([(start, ())])
    while waiting:
        text, rows = waiting.popleft()
        if len(rows) == LONGEST_CHAIN:
            return ()
        for following, row in around.get(text, ()):
            if following == goal:
                return (*rows, row)
            if following not in seen:
                seen.add(following)
                waiting.append((following, (*rows, row)))
    return ()
