"""The batch plan: every row once an epoch, little padding, a pure function."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.batches import plan_batches, sorted_batches

pytestmark = pytest.mark.unit


@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=300),
    batch_size=st.integers(1, 40),
    seed=st.integers(0, 3),
)
def test_each_epoch_visits_each_row_once(lengths: list[int], batch_size: int, seed: int) -> None:
    per_epoch = -(-len(lengths) // batch_size)
    plan = plan_batches(lengths, batch_size, 2 * per_epoch, seed)
    assert len(plan) == 2 * per_epoch
    for epoch in (plan[:per_epoch], plan[per_epoch:]):
        assert sorted(index for batch in epoch for index in batch) == list(range(len(lengths)))
        assert max(map(len, epoch)) <= batch_size
    flat = [index for batch in sorted_batches(lengths, batch_size) for index in batch]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[index] for index in flat] == sorted(lengths, reverse=True)


def test_the_same_arguments_give_the_same_plan_and_a_longer_run_begins_alike() -> None:
    lengths = np.random.default_rng(1).integers(5, 90, 500).tolist()
    plan = plan_batches(lengths, 16, 100, 7)
    assert plan_batches(lengths, 16, 100, 7) == plan
    assert plan_batches(lengths, 16, 40, 7) == plan[:40]
    assert plan_batches(lengths, 16, 100, 8) != plan
    per_epoch = -(-500 // 16)
    assert plan[:per_epoch] != plan[per_epoch : 2 * per_epoch]


def test_rows_of_a_batch_are_alike_in_length() -> None:
    lengths = np.random.default_rng(1).lognormal(3.3, 0.4, 2000).astype(int) + 3

    def padding(batches: list[list[int]]) -> float:
        padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
        return padded / sum(int(lengths[batch].sum()) for batch in batches) - 1

    grouped = padding(plan_batches(lengths.tolist(), 16, 125, 7))
    order = np.random.default_rng(2).permutation(2000)
    shuffled = padding([order[at : at + 16].tolist() for at in range(0, 2000, 16)])
    assert grouped < 0.08 < 0.5 < shuffled


@given(groups=st.lists(st.integers(0, 12), min_size=2, max_size=200), half=st.integers(1, 20), seed=st.integers(0, 3))
def test_rows_of_a_group_come_in_twos_and_each_row_once(groups: list[int], half: int, seed: int) -> None:
    lengths = [1 + index % 30 for index in range(len(groups))]
    twos = sum(-(-groups.count(group) // 2) for group in set(groups))
    epoch = plan_batches(lengths, 2 * half, -(-twos // half), seed, groups)
    assert sorted(index for batch in epoch for index in batch) == list(range(len(groups)))
    assert max(map(len, epoch)) <= 2 * half
    for group in set(groups):
        # Only the one that is left over where a group is odd may be without another beside it.
        alone = [batch for batch in epoch if sum(groups[index] == group for index in batch) == 1]
        assert len(alone) <= groups.count(group) % 2
