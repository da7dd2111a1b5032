"""Packing: every item once, limits kept, batches of like lengths, no dependence on anything but the lengths."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.contract import Limits
from runtime.packing import gather, pack

pytestmark = pytest.mark.unit
lengths = st.lists(st.integers(1, 300), min_size=1, max_size=80)
limits = st.builds(Limits, batch_tokens=st.integers(1, 600), batch_items=st.integers(1, 40))


@given(lengths, limits)
def test_pack_takes_every_index_once_and_keeps_the_limits(lengths: list[int], limits: Limits) -> None:
    batches = pack(lengths, limits)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = max(lengths[index] for index in batch) * len(batch)
        assert len(batch) <= limits.batch_items
        # An item longer than the whole budget still goes, alone.
        assert padded <= limits.batch_tokens or len(batch) == 1


@given(lengths, limits)
def test_pack_never_pads_across_a_batch_of_longer_items(lengths: list[int], limits: Limits) -> None:
    batches = [[lengths[index] for index in batch] for batch in pack(lengths, limits)]
    for earlier, later in pairwise(batches):
        assert min(earlier) >= max(later)


@given(lengths, limits, st.integers(0, 50), st.data())
def test_gather_contains_the_anchor_and_keeps_every_bound(
    lengths: list[int], limits: Limits, padding: int, data: st.DataObject
) -> None:
    ascending = sorted(lengths)
    anchor = data.draw(st.integers(0, len(ascending) - 1))
    start, stop = gather(
        ascending, anchor, items=limits.batch_items, tokens=limits.batch_tokens, padding_tokens=padding
    )
    rows = ascending[start:stop]
    assert start <= anchor < stop
    assert len(rows) <= limits.batch_items
    assert rows[-1] * len(rows) <= limits.batch_tokens or len(rows) == 1
    assert rows[-1] * len(rows) - sum(rows) <= padding


def test_gather_fills_the_batch_when_everything_fits() -> None:
    assert gather([20] * 40, 5, items=32, tokens=2048, padding_tokens=0) == (5, 37)


def test_gather_takes_the_nearest_lengths_on_both_sides() -> None:
    assert gather([1, 18, 20, 21, 60], 2, items=9, tokens=2048, padding_tokens=9) == (1, 4)
