"""Intervals of matching metrics by the percentile bootstrap over rows, of one model or of two on the same rows (Efron
and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 and 16).

A resample is a row of counts: how often each row of the data was drawn. All resamples of a metric are computed
together, on scores that are sorted once. Two models are compared on the same resamples, so that what is hard for both
cancels out. Several runs of a recipe (seeds) may be handed in together: their metric is averaged in each resample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

F64 = npt.NDArray[np.float64]
RESAMPLES, LEVEL, SEED = 2000, 0.95, 7
CELLS = 4_000_000  # counts in memory at once
METRICS = ("accuracy", "precision", "recall", "f1", "roc_auc", "average_precision")


@dataclass(frozen=True, slots=True)
class Interval:
    """A value on all rows, and the interval that holds `level` of the resamples' values.

    A resample in which the metric has no value (one class only) is left out.
    """

    value: float
    low: float
    high: float
    level: float = LEVEL

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Range(BaseModel):
    """An interval as documents hold it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    value: float
    low: float
    high: float

    @classmethod
    def of(cls, found: Interval) -> Range:
        """Rounded."""
        return cls(value=round(found.value, 6), low=round(found.low, 6), high=round(found.high, 6))

    def percent(self) -> str:
        """Of a share: value and interval in percent."""
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def interval(
    metric: str,
    scores: npt.ArrayLike,
    truth: npt.ArrayLike,
    threshold: npt.ArrayLike = 0.5,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = SEED,
) -> Interval:
    """Interval of one of METRICS. `scores`: (N,), or (S, N) of S runs; `truth`: (N,) of 0, 1; `threshold`: 1, or (S,).

    Raises ValueError: an unknown metric, no rows, shapes that do not fit, one class only.
    """
    marks = _marks(truth)
    sides = [_Runs(metric, scores, marks, threshold)]
    return _interval(*_resampled(sides, len(marks), resamples, seed, lambda found: found[0]), level)


def paired_difference(
    metric: str,
    scores: npt.ArrayLike,
    others: npt.ArrayLike,
    truth: npt.ArrayLike,
    threshold: npt.ArrayLike = 0.5,
    other_threshold: npt.ArrayLike = 0.5,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = SEED,
) -> Interval:
    """Metric of `scores` minus metric of `others`, both on the same rows. Shapes and Raises: see `interval`."""
    marks = _marks(truth)
    sides = [_Runs(metric, scores, marks, threshold), _Runs(metric, others, marks, other_threshold)]
    return _interval(*_resampled(sides, len(marks), resamples, seed, lambda found: found[0] - found[1]), level)


def paired_ratio(
    metric: str,
    scores: npt.ArrayLike,
    others: npt.ArrayLike,
    truth: npt.ArrayLike,
    threshold: npt.ArrayLike = 0.5,
    other_threshold: npt.ArrayLike = 0.5,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = SEED,
) -> Interval:
    """Metric of `scores` over metric of `others` ("98 % of the teacher's F1"). Shapes and Raises: see `interval`."""
    marks = _marks(truth)
    sides = [_Runs(metric, scores, marks, threshold), _Runs(metric, others, marks, other_threshold)]
    return _interval(*_resampled(sides, len(marks), resamples, seed, lambda found: _ratio(found[0], found[1])), level)


def wilson(hits: int, count: int, level: float = LEVEL) -> Interval:
    """Interval of a share (Wilson 1927): holds for few rows and for shares of 0 and 1, where resampling does not."""
    from scipy.stats import norm

    if not 0 <= hits <= count or not count:
        raise ValueError(f"{hits} of {count} is no share")
    z = float(norm.ppf((1 + level) / 2))
    share = hits / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    low = 0.0 if hits == 0 else float(middle - half)  # exactly, whatever rounding says
    return Interval(share, low, 1.0 if hits == count else float(middle + half), level)


# ---------------------------------------------------------------- resampling


class _Runs:
    """One side of a comparison: S runs' scores, made ready so that counts (R, N) give the metric of R resamples."""

    def __init__(self, metric: str, scores: npt.ArrayLike, marks: F64, threshold: npt.ArrayLike) -> None:
        if metric not in METRICS:
            raise ValueError(f"unknown metric {metric!r}; there are {', '.join(METRICS)}")
        values = np.atleast_2d(np.asarray(scores, float))
        if values.shape[-1] != len(marks) or values.ndim > 2:
            raise ValueError(f"scores have shape {np.shape(scores)}, truth has {len(marks)} rows")
        thresholds = np.broadcast_to(np.asarray(threshold, float), len(values))
        self._runs: list[Callable[[F64], F64]] = [
            _ranked(metric, run, marks)
            if metric in {"roc_auc", "average_precision"}
            else _decided(metric, run >= cut, marks)
            for run, cut in zip(values, thresholds, strict=True)
        ]

    def __call__(self, counts: F64) -> F64:
        return np.asarray(np.mean([run(counts) for run in self._runs], axis=0))


def _decided(metric: str, guessed: npt.NDArray[np.bool_], marks: F64) -> Callable[[F64], F64]:
    """Metrics at a threshold: sums of counts over hits, guesses and true rows."""
    hit = guessed * marks

    def of(counts: F64) -> F64:
        if metric == "accuracy":
            return _ratio(counts @ (guessed == marks).astype(float), counts.sum(axis=1))
        hits, guesses, true = (counts @ each for each in (hit, guessed.astype(float), marks))
        if metric == "precision":
            return _ratio(hits, guesses)
        if metric == "recall":
            return _ratio(hits, true)
        return _ratio(2 * hits, guesses + true)

    return of


def _ranked(metric: str, scores: F64, marks: F64) -> Callable[[F64], F64]:
    """Metrics over all thresholds: running sums down the scores, taken where a run of equal scores ends."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    true = marks[order]

    def of(counts: F64) -> F64:
        drawn = counts[:, order]
        hits = np.cumsum(drawn * true, axis=1)[:, ends]  # (R, distinct scores)
        guesses = np.cumsum(drawn, axis=1)[:, ends]
        gained = np.diff(hits, axis=1, prepend=0.0)
        if metric == "average_precision":
            return _ratio((gained * _ratio(hits, guesses, 0.0)).sum(axis=1), hits[:, -1])
        misses = guesses - hits
        fresh = np.diff(misses, axis=1, prepend=0.0)
        # A negative is beaten by every positive above it, and by half of those with its own score.
        return _ratio((fresh * (hits - gained / 2)).sum(axis=1), hits[:, -1] * misses[:, -1])

    return of


def _resampled(
    sides: list[_Runs], rows: int, resamples: int, seed: int, join: Callable[[list[F64]], F64]
) -> tuple[float, F64]:
    value = join([side(np.ones((1, rows))) for side in sides])[0]
    if np.isnan(value):
        raise ValueError("the metric has no value: all rows have the same label, or nothing is a match")
    drawn = [join([side(counts) for side in sides]) for counts in _counts(rows, resamples, seed)]
    return float(value), np.concatenate(drawn)


def _counts(rows: int, resamples: int, seed: int) -> Iterator[F64]:
    """How often each row is drawn: (R, N) in blocks, R over all of them is `resamples`."""
    random = np.random.default_rng(seed)
    block = max(1, CELLS // rows)
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        places = random.integers(0, rows, (count, rows)) + np.arange(count)[:, None] * rows
        yield np.bincount(places.ravel(), minlength=count * rows).reshape(count, rows).astype(float)


def _interval(value: float, drawn: F64, level: float) -> Interval:
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), level)


def _marks(truth: npt.ArrayLike) -> F64:
    marks = np.asarray(truth, float)
    if marks.ndim != 1 or not len(marks) or not np.isin(marks, (0, 1)).all():
        raise ValueError("truth must be a list of 0 and 1, not empty")
    if marks.all() or not marks.any():
        raise ValueError("all rows have the same label")
    return marks


def _ratio(above: F64, below: F64, empty: float = np.nan) -> F64:
    return np.divide(above, below, out=np.full_like(above, empty, dtype=float), where=below != 0)
