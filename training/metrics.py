"""Quality of scores against truth. Pure functions on arrays; scikit-learn does the counting.

`scores` are probabilities of the positive label, `truth` is 1 where a row has that label. A pair counts as a match
when its score is at least the threshold.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

Scores = Sequence[float] | npt.NDArray[np.floating]
Truth = Sequence[int] | npt.NDArray[np.integer]


def matching_metrics(scores: Scores, truth: Truth, threshold: float) -> dict[str, float]:
    """accuracy, precision, recall, f1 at `threshold`; roc_auc and average_precision over all thresholds.

    Raises ValueError when `truth` has only one of the two classes: most of these have no value then.
    """
    values, marks = _checked(scores, truth)
    guessed = values >= threshold
    hits = int((guessed & marks).sum())
    precision = hits / max(int(guessed.sum()), 1)
    recall = hits / int(marks.sum())
    return {
        "accuracy": float((guessed == marks).mean()),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / max(precision + recall, 1e-12),
        "roc_auc": float(roc_auc_score(marks, values)),
        "average_precision": average_precision(scores, truth),
        "threshold": threshold,
    }


def average_precision(scores: Scores, truth: Truth) -> float:
    """Area under the precision-recall steps. Raises ValueError when `truth` has only one class."""
    values, marks = _checked(scores, truth)
    return float(average_precision_score(marks, values))


def best_threshold(scores: Scores, truth: Truth) -> float:
    """The threshold with the highest F1, in [0, 1]: half way to the next lower score, so that it does not sit on one.

    Of several equally good ones the highest, which gives the fewest false matches.
    """
    values, marks = _checked(scores, truth)
    precision, recall, thresholds = precision_recall_curve(marks, values)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = len(thresholds) - 1 - int(np.argmax(f1[:-1][::-1]))
    lower = values[values < thresholds[best]]
    below = float(lower.max()) if len(lower) else 0.0
    return float(np.clip((float(thresholds[best]) + below) / 2, 0, 1))


def agreeing_threshold(scores: Scores, others: Scores, threshold: float) -> float | None:
    """The threshold at which `scores` decide most like `others` do at `threshold`, by F1 of these decisions.

    None where the others decide all alike. For a model that stands for another, whose threshold was chosen well: labels
    say less of so small a difference than of noise.
    """
    decisions = np.asarray(others) >= threshold
    return None if decisions.all() or not decisions.any() else best_threshold(scores, decisions.astype(int))


def _checked(scores: Scores, truth: Truth) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    marks = np.asarray(truth, dtype=bool)
    if marks.all() or not marks.any():
        raise ValueError(f"All {len(marks)} rows have the same label; quality needs both.")
    return np.asarray(scores, np.float64), marks
