"""Bootstrap intervals: the value is scikit-learn's, resamples are what counting them one by one gives, pairs cancel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.bootstrap import METRICS, Interval, interval, paired_difference, paired_ratio, wilson
from training.metrics import matching_metrics

pytestmark = pytest.mark.unit


def scored(rows: int, seed: int = 1, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores that tell the classes apart, the less so the more noise; many of them equal."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 2, rows)
    truth[:2] = 0, 1
    scores = 1 / (1 + np.exp(-(2 * truth - 1 + noise * random.normal(size=rows))))
    return np.round(scores, 2), truth


@settings(max_examples=25, deadline=None)
@given(st.integers(8, 60), st.integers(0, 1000), st.floats(0.2, 0.8))
def test_the_value_is_the_metric_on_all_rows(rows: int, seed: int, threshold: float) -> None:
    scores, truth = scored(rows, seed)
    expected = matching_metrics(scores, truth, threshold)
    for metric in METRICS:
        if metric == "precision" and not (scores >= threshold).any():
            continue
        found = interval(metric, scores, truth, threshold, resamples=20)
        assert found.value == pytest.approx(expected[metric], abs=1e-9), metric


def test_the_interval_is_that_of_resamples_counted_one_by_one() -> None:
    scores, truth = scored(40)
    drawn = np.random.default_rng(7).integers(0, 40, (100, 40))
    slow = [matching_metrics(scores[places], truth[places], 0.5) for places in drawn]
    for metric in METRICS:
        found = interval(metric, scores, truth, 0.5, resamples=100)
        expected = np.quantile([each[metric] for each in slow], [0.025, 0.975])
        assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-9), metric


def test_more_rows_make_a_narrower_interval_around_the_value() -> None:
    few, many = (interval("f1", *scored(rows), 0.5) for rows in (100, 2500))
    for found in (few, many):
        assert found.low < found.value < found.high
    assert 3 < (few.high - few.low) / (many.high - many.low) < 8  # 5, as one over the root of the rows


def test_what_is_hard_for_both_models_cancels_out() -> None:
    scores, truth = scored(800, noise=2.0)
    near = np.clip(scores + np.random.default_rng(5).normal(0, 0.01, 800), 0, 1)
    alone = interval("f1", scores, truth)
    for found, same in (
        (paired_difference("f1", scores, near, truth), 0),
        (paired_ratio("f1", scores, near, truth), 1),
    ):
        assert found.low <= same <= found.high
        assert found.high - found.low < (alone.high - alone.low) / 2
    assert paired_ratio("roc_auc", scores, scores, truth) == Interval(1.0, 1.0, 1.0)
    worse = paired_difference("roc_auc", np.full(800, 0.5), scores, truth)
    assert worse.high < 0


def test_runs_are_averaged_each_at_its_own_threshold() -> None:
    scores, truth = scored(200)
    other, _ = scored(200, seed=1, noise=3.0)
    both = interval("f1", [scores, other], truth, [0.3, 0.6])
    expected = [matching_metrics(each, truth, cut)["f1"] for each, cut in ((scores, 0.3), (other, 0.6))]
    assert both.value == pytest.approx(np.mean(expected))
    assert interval("f1", [scores, other], truth, [0.3, 0.6]) == both  # seeded


def test_wilson_stays_within_what_a_share_can_be() -> None:
    assert (wilson(0, 10).low, wilson(10, 10).high) == (0.0, 1.0)
    found = wilson(8, 10)
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Newcombe 1998, by the same formula
    with pytest.raises(ValueError, match="no share"):
        wilson(1, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("f2", [0.5, 0.6], [0, 1]), "unknown metric 'f2'"),
        (("f1", [0.5], [0, 1]), "truth has 2 rows"),
        (("f1", [0.5, 0.6], [1, 1]), "same label"),
        (("f1", [], []), "not empty"),
        (("precision", [0.1, 0.2], [0, 1]), "has no value"),
    ],
)
def test_what_has_no_interval_is_said(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interval(*arguments)
