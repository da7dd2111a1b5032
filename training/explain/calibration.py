"""Whether scores are probabilities, and what makes them so. `scores` (N,) in [0, 1], `truth` (N,) of 0 and 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from training.explain.contract import F64, Bools, Findings

BINS = 15
FOLDS = 5
_EDGE = 1e-6  # scores are kept so far from 0 and 1, where their log-odds end


class Bin(Findings):
    """Rows whose scores lie in one of BINS equal parts of [0, 1]."""

    low: float
    high: float
    rows: int
    mean_score: float
    match_share: float


@dataclass(frozen=True, slots=True)
class Scaling:
    """score -> sigmoid(log-odds(score) / temperature + bias). Without a bias, temperature scaling (Guo et al.,
    arXiv:1706.04599); with one, Platt's (1999), which cosines need: they are not centred on even odds."""

    temperature: float
    bias: float = 0.0

    def __call__(self, scores: F64) -> F64:
        return np.asarray(expit(log_odds(scores) / self.temperature + self.bias))


def log_odds(scores: F64) -> F64:
    """Logarithm of s / (1 - s)."""
    return np.asarray(logit(np.clip(scores, _EDGE, 1 - _EDGE)))


def reliability(scores: F64, truth: Bools) -> list[Bin]:
    """The bins of a reliability diagram that hold rows."""
    places = np.minimum((np.asarray(scores) * BINS).astype(int), BINS - 1)
    return [
        Bin(
            low=round(place / BINS, 4),
            high=round((place + 1) / BINS, 4),
            rows=int(held.sum()),
            mean_score=round(float(scores[held].mean()), 6),
            match_share=round(float(truth[held].mean()), 6),
        )
        for place in range(BINS)
        if (held := places == place).any()
    ]


def expected_calibration_error(scores: F64, truth: Bools) -> float:
    """Mean distance of a bin's score from its share of matches, weighted by rows (Naeini et al., AAAI 2015)."""
    bins = reliability(scores, truth)
    return sum(each.rows * abs(each.mean_score - each.match_share) for each in bins) / len(scores)


def log_loss(scores: F64, truth: Bools) -> float:
    """Mean negative log-likelihood, in nats."""
    odds = log_odds(scores)
    return float(np.logaddexp(0, np.where(truth, -odds, odds)).mean())


def fit(scores: F64, truth: Bools, *, biased: bool) -> Scaling:
    """The scaling with the least log loss; it keeps the order of the scores.

    Raises ValueError where higher scores do not mean more matches, so that no such scaling exists.
    """
    odds, signs = log_odds(scores), np.where(truth, 1.0, -1.0)

    def loss(parameters: F64) -> float:
        return float(np.logaddexp(0, -signs * (parameters[0] * odds + (parameters[1] if biased else 0.0))).mean())

    found = minimize(loss, np.asarray([1.0, 0.0][: 1 + biased]), method="Nelder-Mead", options={"xatol": 1e-5}).x
    if found[0] <= 1e-3:
        raise ValueError("higher scores do not mean more matches")
    return Scaling(float(1 / found[0]), float(found[1]) if biased else 0.0)


def cross_fitted(scores: F64, truth: Bools, seed: int, *, biased: bool) -> F64:
    """Scaled scores of rows that their own scaling has not seen: fitted on four fifths, applied to the fifth."""
    folds = np.random.default_rng(seed).permutation(len(scores)) % FOLDS
    scaled = np.empty(len(scores))
    for fold in range(FOLDS):
        held = folds == fold
        scaled[held] = fit(scores[~held], truth[~held], biased=biased)(scores[held])
    return scaled
