"""Calibration and thresholds on data whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from tests.unit.training.explain.subject import pair_rows, scored
from training.explain import calibration
from training.explain.contract import Costs
from training.explain.threshold import choose, cost_curve, mean_cost

pytestmark = pytest.mark.unit


def drawn(rows: int, temperature: float, bias: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores that are too sure by `temperature`, of labels that their true log-odds gave."""
    random = np.random.default_rng(3)
    odds = random.normal(0, 1.5, rows)
    truth = random.random(rows) < expit(odds)
    return expit((odds - bias) * temperature), truth


def test_calibrated_scores_have_no_error_and_sure_ones_have_theirs() -> None:
    assert calibration.expected_calibration_error(*drawn(40_000, 1.0)) < 0.012
    half = np.tile([True, False], 500)
    assert calibration.expected_calibration_error(np.full(1000, 0.9), half) == pytest.approx(0.4)
    assert calibration.log_loss(np.full(1000, 0.9), half) == pytest.approx(-(np.log(0.9) + np.log(0.1)) / 2)


def test_the_temperature_that_was_put_in_is_found_and_mends_the_error() -> None:
    scores, truth = drawn(20_000, 3.0)
    found = calibration.fit(scores, truth, biased=False)
    assert found.temperature == pytest.approx(3.0, rel=0.05)
    assert calibration.expected_calibration_error(scores, truth) > 0.1
    assert calibration.expected_calibration_error(found(scores), truth) < 0.02
    assert (np.diff(found(np.sort(scores))) >= 0).all()
    held_out = calibration.cross_fitted(scores, truth, 7, biased=False)
    assert calibration.expected_calibration_error(held_out, truth) < 0.02


def test_cosines_need_a_bias_too() -> None:
    scores, truth = drawn(20_000, 0.5, bias=-2.0)
    found = calibration.fit(scores, truth, biased=True)
    assert (found.temperature, found.bias) == pytest.approx((0.5, -2.0), rel=0.1)
    with pytest.raises(ValueError, match="do not mean more matches"):
        calibration.fit(scores, ~truth, biased=True)


def test_the_threshold_follows_the_costs() -> None:
    scores, truth = drawn(3000, 1.0)
    rows = pair_rows(3000, 1)
    data = scored([{**row, "label": int(each)} for row, each in zip(rows, truth, strict=True)], scores.tolist())
    chosen = {
        (false, missed): choose(data, data, Costs(false, missed)).chosen for false, missed in ((1, 1), (9, 1), (1, 9))
    }
    # Calibrated scores: the best threshold is the share of the cost that a false match has.
    assert chosen[1, 1] == pytest.approx(0.5, abs=0.08)
    assert chosen[9, 1] == pytest.approx(0.9, abs=0.08)
    assert chosen[1, 9] == pytest.approx(0.1, abs=0.08)


def test_the_cost_curve_is_the_cost_at_each_threshold() -> None:
    scores, truth = np.asarray([0.2, 0.2, 0.5, 0.9]), np.asarray([False, True, False, True])
    costs = Costs(1.0, 3.0)
    thresholds, found = cost_curve(scores, truth, costs)
    assert found.tolist() == [mean_cost(scores, truth, each, costs) for each in thresholds]
    assert found.tolist() == [2 / 4, 4 / 4, 3 / 4, 6 / 4]
