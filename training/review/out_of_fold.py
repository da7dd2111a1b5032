"""Probabilities of every row's label by models that have not seen it.

    frozen vectors -> a map a fold (projection.py) -> evidence on held-out rows (evidence.py) -> boosted trees a fold

Both steps are cross-fitted with folds of their own: no row's label goes into its own probabilities. What a *text* of a
row says in other rows does, and should: in pairs drawn from groups, a wrong label contradicts its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training.data.errors import DataError
from training.review.evidence import Pairs, evidence
from training.review.projection import project

F64 = npt.NDArray[np.float64]
FOLDS = 5
TREES, TREE_RATE, LEAVES = 150, 0.05, 15
MOST_IN_LEAF = 40  # rows that a leaf needs at least; fewer where there are few rows


@dataclass(frozen=True, slots=True)
class Probabilities:
    """`own` (N, C): of the rows themselves, each by models that have not seen it. `others` (M, C): of rows beside them,
    by a model of all N."""

    own: F64
    others: F64


def probabilities(
    pairs: Pairs, others: Pairs, seed: int, log: Callable[[str], None] = lambda line: None
) -> Probabilities:
    """Judge the N rows of `pairs` by one another, and the M of `others`, over the same texts, by them.

    The same seed gives the same. Raises DataError: a class has fewer rows than there are folds.
    """
    counts = np.bincount(pairs.labels, minlength=pairs.classes)
    if counts.min() < FOLDS:
        raise DataError(
            f"{FOLDS} folds need at least {FOLDS} rows of each label, and one has {counts.min()}: too few to judge by."
        )
    seen: npt.NDArray[np.float32] | None = None
    for fold, held in enumerate(_folds(pairs.labels, seed)):
        found = _evidence_of(pairs.only(~held), pairs.only(held), seed + fold)
        seen = np.zeros((len(held), found.shape[1]), np.float32) if seen is None else seen
        seen[held] = found
        log(f"fold {fold + 1} of {FOLDS}: {held.sum()} rows beside {(~held).sum()} others")
    assert seen is not None
    own = np.zeros((len(seen), pairs.classes))
    for held in _folds(pairs.labels, seed + 1):  # other folds than the evidence's
        own[held] = _classifier(seen[~held], pairs.labels[~held], seed).predict_proba(seen[held])
    if not len(others.labels):
        return Probabilities(own, np.zeros((0, pairs.classes)))
    classifier = _classifier(seen, pairs.labels, seed)
    return Probabilities(own, np.asarray(classifier.predict_proba(_evidence_of(pairs, others, seed + FOLDS))))


def _evidence_of(known: Pairs, held: Pairs, seed: int) -> npt.NDArray[np.float32]:
    mapped = project(known.vectors, known.first, known.second, known.labels == known.match, seed)
    return evidence(mapped, known, held.first, held.second)


def _classifier(seen: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    classifier = HistGradientBoostingClassifier(
        max_iter=TREES,
        learning_rate=TREE_RATE,
        max_leaf_nodes=LEAVES,
        min_samples_leaf=int(np.clip(len(labels) // 50, 3, MOST_IN_LEAF)),
        early_stopping=False,
        random_state=seed,
    )
    return classifier.fit(seen, labels)


def _folds(labels: npt.NDArray[np.int64], seed: int) -> list[npt.NDArray[np.bool_]]:
    """FOLDS masks (N,) that part the rows, each with its share of every label."""
    place = np.zeros(len(labels), np.int64)
    random = np.random.default_rng(seed)
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        place[rows] = np.arange(len(rows)) % FOLDS
    return [place == fold for fold in range(FOLDS)]
