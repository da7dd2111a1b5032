"""What the rows of other folds say about a pair: twelve or so figures a pair, for the trees of out_of_fold.py.

The texts of a pair are compared after a map that was learned from the other rows; then as their neighbours are, a text
being drawn to those that it matches in other rows (one and two steps of label propagation, Zhu and Ghahramani 2002);
and pairs are compared as pairs: how are those labelled whose two texts are near these two?
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.review.projection import Projected

F32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
WIDTHS = (0.1, 0.04)  # of the kernel over pairs, in cosine: wide and narrow
BLOCK = 256  # pairs that are compared with all others at a time
MOST_REFERENCES = 50_000  # rows that a pair is compared with


@dataclass(frozen=True, slots=True)
class Pairs:
    """N rows over T texts: indices of their texts, label indices. `match`: the index of the positive label of C."""

    vectors: F32  # (T, E), of length 1
    first: Ints
    second: Ints
    labels: Ints
    match: int
    classes: int

    def only(self, rows: npt.NDArray[np.bool_]) -> Pairs:
        """The chosen rows, over the same texts."""
        return Pairs(self.vectors, self.first[rows], self.second[rows], self.labels[rows], self.match, self.classes)

    def labelled(self, labels: Ints) -> Pairs:
        """The same rows with other labels."""
        return Pairs(self.vectors, self.first, self.second, labels, self.match, self.classes)


def evidence(mapped: Projected, known: Pairs, first: Ints, second: Ints) -> F32:
    """(M, F): figures of M pairs of texts, by the `known` rows, none of which may be one of them."""
    drawn, twice, around, degree = _neighbourhoods(mapped.vectors, known)
    unit = mapped.vectors
    columns = [
        _cosine(known.vectors, first, known.vectors, second),
        _cosine(unit, first, unit, second),
        _cosine(drawn, first, drawn, second),
        _cosine(twice, first, twice, second),
        (_cosine(unit, first, around, second) + _cosine(around, first, unit, second)) / 2,
        _cosine(around, first, around, second),
        np.minimum(degree[first], degree[second]),
        np.maximum(degree[first], degree[second]),
    ]
    return np.column_stack([*columns, _alike(unit, known, first, second)]).astype(np.float32)


def _neighbourhoods(unit: F32, known: Pairs) -> tuple[F32, F32, F32, F32]:
    """Each text drawn to its matches once and twice, the mean of its matches, and how much of them there is.

    A match weighs as much as the two are alike, so that a wrong one draws little.
    """
    from scipy.sparse import csr_matrix

    matches = known.labels == known.match
    one, other = known.first[matches], known.second[matches]
    rows, columns = np.concatenate([one, other]), np.concatenate([other, one])
    weights = np.maximum(_cosine(unit, rows, unit, columns), 0)
    graph = csr_matrix((weights, (rows, columns)), shape=(len(unit), len(unit)))
    sums = np.asarray(graph @ unit)
    drawn = _unit(unit + sums)
    twice = _unit(unit + np.asarray(graph @ drawn))
    return drawn, twice, _unit(sums), np.asarray(graph.sum(1), np.float32).ravel()


def _alike(unit: F32, known: Pairs, first: Ints, second: Ints) -> F32:
    """(M, C * 2 + 2): shares of the labels among the known pairs that are near, for two widths; how many are near, and
    how near the nearest is. Two pairs are as near as the farther of their two texts, in the better of both orders."""
    if len(known.labels) > MOST_REFERENCES:
        chosen = np.random.default_rng(0).permutation(len(known.labels)) < MOST_REFERENCES
        known = known.only(chosen)
    one, other = unit[known.first].T, unit[known.second].T  # (W, N)
    labels = np.eye(known.classes, dtype=np.float32)[known.labels]  # (N, C)
    found = []
    for start in range(0, len(first), BLOCK):
        u, v = unit[first[start : start + BLOCK]], unit[second[start : start + BLOCK]]
        near = np.maximum(np.minimum(u @ one, v @ other), np.minimum(u @ other, v @ one))  # (B, N)
        nearest = near.max(1, keepdims=True)
        shares = []
        for width in WIDTHS:
            weights = np.exp((near - nearest) / width)  # the nearest weighs 1: no division by nothing
            mass = weights.sum(1, keepdims=True)
            shares += [weights @ labels / mass, np.log(mass)]
        found.append(np.column_stack([shares[0], shares[2], shares[1] + nearest / WIDTHS[0], nearest]))
    return np.concatenate(found) if found else np.zeros((0, 2 * known.classes + 2), np.float32)


def _cosine(left: F32, rows: Ints, right: F32, columns: Ints) -> F32:
    return np.asarray((left[rows] * right[columns]).sum(1))


def _unit(vectors: F32) -> F32:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9))
