"""Metrics against values worked out by hand, and properties of the threshold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.metrics import agreeing_threshold, average_precision, best_threshold, matching_metrics

pytestmark = pytest.mark.unit
SCORES, TRUTH = [0.9, 0.8, 0.7, 0.4, 0.3, 0.1], [1, 0, 1, 1, 0, 0]


def test_values_by_hand() -> None:
    found = matching_metrics(SCORES, TRUTH, 0.5)
    assert found == pytest.approx(
        {
            "accuracy": 4 / 6,
            "precision": 2 / 3,
            "recall": 2 / 3,
            "f1": 2 / 3,
            "roc_auc": 7 / 9,  # 7 of the 9 (positive, negative) pairs stand in the right order
            "average_precision": (1 / 1 + 2 / 3 + 3 / 4) / 3,
            "threshold": 0.5,
        }
    )
    assert average_precision(SCORES, TRUTH) == pytest.approx(found["average_precision"])


def test_a_score_on_the_threshold_is_a_match() -> None:
    assert matching_metrics([0.5, 0.1], [1, 0], 0.5)["recall"] == 1.0


def test_nothing_guessed_is_no_division_by_zero() -> None:
    found = matching_metrics(SCORES, TRUTH, 1.0)
    assert (found["precision"], found["recall"], found["f1"]) == (0, 0, 0)


def test_best_threshold_lies_between_two_scores() -> None:
    # 0.4 and up: 3 of 4 right, all found, F1 6/7; nothing beats it.
    assert best_threshold(SCORES, TRUTH) == pytest.approx((0.4 + 0.3) / 2)
    assert best_threshold([0.2, 0.9], [1, 0]) == pytest.approx(0.1)  # below the lowest score: half way to 0
    assert best_threshold([0.5, 0.5], [1, 0]) == pytest.approx(0.25)


@pytest.mark.parametrize("truth", [[1, 1], [0, 0]])
def test_one_class_alone_is_refused(truth: list[int]) -> None:
    for metric in (average_precision, best_threshold):
        with pytest.raises(ValueError, match="same label"):
            metric([0.1, 0.2], truth)


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.integers(0, 1)), min_size=2, max_size=30))
def test_no_threshold_has_a_higher_f1_than_the_best(rows: list[tuple[float, int]]) -> None:
    scores, truth = [score for score, _ in rows], [label for _, label in rows]
    if len(set(truth)) < 2:
        return
    best = best_threshold(scores, truth)
    assert 0 <= best <= 1
    reached = matching_metrics(scores, truth, best)["f1"]
    assert all(matching_metrics(scores, truth, score)["f1"] <= reached + 1e-9 for score in scores)


def test_a_model_that_stands_for_another_decides_like_it() -> None:
    others = [0.1, 0.2, 0.6, 0.7, 0.9]
    assert agreeing_threshold([0.2, 0.3, 0.65, 0.8, 0.95], others, 0.5) == pytest.approx((0.65 + 0.3) / 2)
    assert agreeing_threshold([0.2, 0.3, 0.65, 0.8, 0.95], others, 0.8) == pytest.approx((0.95 + 0.8) / 2)


@pytest.mark.parametrize("threshold", [0.0, 1.0], ids=["all match", "none does"])
def test_decisions_that_are_all_alike_say_nothing_of_a_threshold(threshold: float) -> None:
    assert agreeing_threshold([0.2, 0.3], [0.4, 0.5], threshold) is None
