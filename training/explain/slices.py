"""Rates by slice, and slices found that are worse than the rest.

A rate is a share of marked rows: wrong ones, or those that a compression step turned wrong. The search looks at every
condition (a property's value, a frequent term) and at every two of them together, as SliceFinder (Chung et al., ICDE
2019) and SliceLine (Sagadeeva and Boehm, SIGMOD 2021) do, and tests each against the rows outside by Fisher's exact
test. What is shown holds at a false discovery rate of 5 % over all that were looked at (Benjamini and Hochberg 1995).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import false_discovery_control, hypergeom

from training.bootstrap import Range, wilson
from training.explain.contract import F64, Bools, Findings
from training.explain.features import Values

RATE = 0.05  # of false discoveries, and of the test within a slice
TERM = "word"  # the property of having a term
MOST_FOUND = 12
SAME = 0.7  # two slices that share so many of their rows (Jaccard) are shown once


class Condition(Findings):
    """A property and the value that it has in a slice."""

    feature: str
    value: str


class Slice(Findings):
    """Rows that meet all conditions. `p`: how likely so many marked ones are by chance; `q`: the same, corrected for
    how many slices were looked at."""

    conditions: tuple[Condition, ...]
    rows: int
    marked: int
    rate: Range
    rate_outside: float
    p: float
    q: float


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Slices as columns: `member` (N, S)."""

    conditions: Sequence[tuple[Condition, ...]]
    member: Bools


def by_value(marked: Bools, features: Mapping[str, Values]) -> list[Slice]:
    """One slice a value of each property, in their order."""
    found = _singles(features, {}, least=1)
    return _measured(marked, found)


def worse(marked: Bools, features: Mapping[str, Values], terms: Mapping[str, Bools]) -> list[Slice]:
    """The slices with significantly more marked rows than there are outside, most certain first, at most MOST_FOUND.

    Single conditions and pairs of them are each corrected for how many there are. A pair is left out where either of
    its conditions alone explains it, and so is a slice of nearly the rows of one that is more certain.
    """
    if not marked.any() or marked.all():
        return []
    least = least_rows(len(marked))
    singles = _singles(features, terms, least)
    pairs, apart = _pairs(marked, singles, least)
    measured = _measured(marked, singles)
    measured += [each for each, shown in zip(_measured(marked, pairs), apart, strict=True) if shown]
    kept: list[tuple[Slice, Bools]] = []
    for each in sorted(measured, key=lambda each: (each.p, len(each.conditions))):
        if each.q > RATE or len(kept) == MOST_FOUND:
            continue
        rows = members(each, features, terms)
        if not any(_jaccard(rows, other) > SAME for _, other in kept):
            kept.append((each, rows))
    return [each for each, _ in kept]


def members(each: Slice, features: Mapping[str, Values], terms: Mapping[str, Bools]) -> Bools:
    """Its rows (N,)."""
    columns = [
        terms[one.value] if one.feature == TERM else np.asarray([value == one.value for value in features[one.feature]])
        for one in each.conditions
    ]
    return np.logical_and.reduce(columns)


def least_rows(rows: int) -> int:
    """Below this a slice is too small to say anything about."""
    return max(10, rows // 100)


def more_than_outside(inside_rows: F64, inside: F64, rows: F64, marked: F64) -> F64:
    """Fisher's exact test, one-sided: P(`inside` or more of `marked` fall among `inside_rows` of `rows`)."""
    return np.asarray(hypergeom.sf(np.asarray(inside) - 1, rows, marked, inside_rows), float)


def _measured(marked: Bools, candidates: _Candidates) -> list[Slice]:
    if not candidates.conditions:
        return []
    sizes = candidates.member.sum(axis=0)
    inside = candidates.member[marked].sum(axis=0)
    total, rows = int(marked.sum()), len(marked)
    p = more_than_outside(sizes, inside, rows, total)
    # Sums of tails may pass 1 by rounding. All looked at are in the correction, shown or not.
    q = false_discovery_control(np.clip(p, 0, 1))
    return [
        Slice(
            conditions=conditions,
            rows=int(sizes[place]),
            marked=int(inside[place]),
            rate=Range.of(wilson(int(inside[place]), int(sizes[place]))),
            rate_outside=round(float((total - inside[place]) / max(rows - sizes[place], 1)), 6),
            p=float(p[place]),
            q=float(q[place]),
        )
        for place, conditions in enumerate(candidates.conditions)
    ]


def _singles(features: Mapping[str, Values], terms: Mapping[str, Bools], least: int) -> _Candidates:
    conditions, columns = [], []
    for name, values in features.items():
        column = np.asarray([value or "" for value in values])
        for value in sorted(set(filter(None, values)), key=_order):
            conditions.append((Condition(feature=name, value=value),))
            columns.append(column == value)
    for term, column in terms.items():
        conditions.append((Condition(feature=TERM, value=term),))
        columns.append(column)
    rows = len(next(iter(features.values()), ())) or len(next(iter(terms.values()), ()))
    member = np.stack(columns, axis=1) if columns else np.zeros((rows, 0), bool)
    kept = [place for place, size in enumerate(member.sum(axis=0)) if least <= size < len(member)]
    return _Candidates([conditions[place] for place in kept], member[:, kept])


def _order(value: str) -> tuple[int, str]:
    """Ranges in their own order: ≤ before –, that before >."""
    place = {"≤": 0, ">": 2}.get(value[:1], 1 if "–" in value else -1)
    return (place, value)


def _pairs(marked: Bools, singles: _Candidates, least: int) -> tuple[_Candidates, Bools]:
    """Two conditions at once, of different properties; and which of them (S,) are worse than either condition alone.

    Of two terms there would be so many that the correction would leave nothing: one of the two is no term.
    """
    member = singles.member.astype(np.float32)
    sizes = member.T @ member  # (S, S) rows that meet both
    inside = member[marked].T @ member[marked]
    names = np.asarray([each[0].feature for each in singles.conditions])
    one, other = np.triu_indices(len(names), 1)
    fits = (sizes[one, other] >= least) & (names[one] != names[other])
    one, other = one[fits], other[fits]
    # Within the rows of either condition, the other one must still make a difference.
    apart = np.ones(len(one), bool)
    for each in (one, other):
        p = more_than_outside(sizes[one, other], inside[one, other], sizes[each, each], inside[each, each])
        apart &= p < RATE
    conditions = [singles.conditions[a] + singles.conditions[b] for a, b in zip(one, other, strict=True)]
    return _Candidates(conditions, singles.member[:, one] & singles.member[:, other]), apart


def _jaccard(one: Bools, other: Bools) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))
