"""Filters keep what they should, draws follow the distribution, settings out of range are named."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.contract import Sampling
from runtime.errors import InvalidInput
from runtime.sampling import check, draw

pytestmark = pytest.mark.unit
LOGITS = np.log(np.asarray([0.5, 0.25, 0.15, 0.1], np.float32))


def drawn(sampling: Sampling, count: int = 4000) -> np.ndarray:
    random = np.random.default_rng(3)
    return np.bincount([draw(LOGITS, sampling, random) for _ in range(count)], minlength=4) / count


def test_zero_temperature_is_greedy() -> None:
    assert drawn(Sampling(temperature=0), 20).tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0.5, 0.25, 0.15, 0.1]),
        (Sampling(top_k=2), [2 / 3, 1 / 3, 0, 0]),
        (Sampling(top_p=0.75), [2 / 3, 1 / 3, 0, 0]),
        (Sampling(top_p=0.76), [0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0]),
        (Sampling(top_p=0.01), [1, 0, 0, 0]),
        (Sampling(top_k=3, top_p=0.7), [2 / 3, 1 / 3, 0, 0]),
        (Sampling(temperature=0.5), [0.25 / 0.345, 0.0625 / 0.345, 0.0225 / 0.345, 0.01 / 0.345]),
        (Sampling(top_k=99), [0.5, 0.25, 0.15, 0.1]),
    ],
)
def test_draws_follow_the_filtered_distribution(sampling: Sampling, expected: list[float]) -> None:
    assert np.abs(drawn(sampling) - expected).max() < 0.03


@pytest.mark.parametrize(
    ("sampling", "name"),
    [
        (Sampling(max_tokens=0), "max_tokens"),
        (Sampling(temperature=-1), "temperature"),
        (Sampling(temperature=float("nan")), "temperature"),
        (Sampling(top_k=-1), "top_k"),
        (Sampling(top_p=0), "top_p"),
        (Sampling(seed=-1), "seed"),
        (Sampling(stop=("",)), "stop"),
        (Sampling(stop=("a",) * 5), "stop"),
    ],
)
def test_a_setting_out_of_range_is_named(sampling: Sampling, name: str) -> None:
    with pytest.raises(InvalidInput, match=f"{name} is") as caught:
        check(sampling)
    assert caught.value.param == name
