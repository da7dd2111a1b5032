"""The cost model: what it makes of batches whose cost is known, with noise, with one size only, with hold-ups."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.cost import FIXED_SHARE, LEAST_FIXED_TOKENS, CostModel

pytestmark = pytest.mark.unit


def test_the_parts_of_an_exact_cost_are_found() -> None:
    model = CostModel()
    for size in (20, 30, 60, 120):
        model.observe(size, 0.002 + 0.0001 * size)
    assert (model.fixed_s, model.token_s) == (pytest.approx(0.002), pytest.approx(0.0001))
    assert model.fixed_s / (model.fixed_s + model.budget_tokens * model.token_s) == pytest.approx(FIXED_SHARE)


def test_one_size_says_nothing_about_the_parts() -> None:
    model = CostModel()
    assert model.budget_tokens == pytest.approx(76)
    for _ in range(9):
        model.observe(100, 0.01)
    assert model.budget_tokens == pytest.approx(76)
    model.observe(200, 0.015)
    assert model.budget_tokens > 100


def test_under_steady_load_the_warm_up_keeps_the_parts_apart_and_the_scale_follows() -> None:
    model = CostModel()
    for size in (8, 32, 128):
        model.observe(size, 0.001 + 0.0001 * size, warm_up=True)
    for _ in range(500):
        model.observe(190, 2 * (0.001 + 0.0001 * 190))
    assert model.fixed_s + 190 * model.token_s == pytest.approx(0.04, rel=0.05)
    assert model.budget_tokens == pytest.approx(190, rel=0.05)


@given(st.lists(st.tuples(st.integers(1, 4000), st.floats(1e-7, 10)), min_size=1, max_size=40), st.booleans())
def test_whatever_was_seen_no_part_is_negative_and_a_batch_has_room_for_an_item(
    batches: list[tuple[int, float]], warm_up: bool
) -> None:
    model = CostModel()
    for size, took_s in batches:
        model.observe(size, took_s, warm_up=warm_up)
    assert model.fixed_s >= 0
    assert model.token_s >= 0
    assert model.budget_tokens >= LEAST_FIXED_TOKENS / FIXED_SHARE * 0.9


def test_one_batch_that_was_held_up_does_not_turn_the_model_over() -> None:
    noise = random.Random(7)
    model = CostModel()
    for number in range(300):
        size = noise.choice((30, 60, 120, 180))
        took_s = (0.002 + 0.0002 * size) * noise.uniform(0.9, 1.1)
        model.observe(size, 5.0 if number == 250 else took_s)
    assert model.budget_tokens == pytest.approx(190, rel=0.7)
