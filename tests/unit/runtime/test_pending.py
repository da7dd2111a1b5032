"""What waits for a batch: order, bounds on being passed over, sharing, leaving. No threads, no clock."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runtime.contract import Encoded
from runtime.pending import KEPT_DEADLINES, Pending, Request, Work

pytestmark = pytest.mark.unit
EVERYTHING: dict[str, Any] = {"items": 8, "tokens": 400, "padding_tokens": 20.0, "window_tokens": 60}


def item(first: int, length: int) -> Encoded:
    return Encoded((first,) * length, (0,) * length)


def request(size: int, deadline: float | None = None) -> Request:
    return Request(size, lambda _: None, 0.0, deadline)


@given(
    st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=12), min_size=1, max_size=30),
    st.integers(1, 8),
    st.integers(1, 100),
    st.integers(0, 40),
    st.integers(0, 400),
)
def test_an_item_with_k_older_ones_is_taken_within_4k_and_4_batches(
    requests: list[list[int]], items: int, tokens: int, padding: int, window: int
) -> None:
    pending, number, newcomer = Pending(), 0, 10_000
    for lengths in requests:
        asked = request(len(lengths))
        for index, length in enumerate(lengths):
            pending.add(asked, index, item(number, length))
            number += 1
    taken: dict[int, int] = {}
    for batch in range(4 * number + 4):
        # Newcomers of the length that fits best keep coming.
        for length in (5, 30):
            pending.add(request(1), 0, item(newcomer, length))
            newcomer += 1
        for work in pending.take(items=items, tokens=tokens, padding_tokens=padding, window_tokens=window):
            taken[work.encoded.ids[0]] = batch
    for k in range(number):
        assert taken[k] <= 4 * k + 3


def test_answered_requests_are_not_kept_until_their_deadline() -> None:
    pending = Pending()
    for number in range(5 * KEPT_DEADLINES):
        pending.add(request(1, deadline=1e9), 0, item(number, 3))
        for work in pending.take(**EVERYTHING):
            pending.finish(work)
    assert len(pending._deadlines) <= KEPT_DEADLINES + 3


class Queue(RuleBasedStateMachine):
    """Any order of asking, taking, finishing, leaving and expiring."""

    def __init__(self) -> None:
        super().__init__()
        self.pending = Pending()
        self.wanted: dict[Request, dict[int, Encoded]] = {}  # what each request still waits for
        self.running: list[Work] = []

    @rule(
        items=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 9)), min_size=1, max_size=5),
        deadline=st.none() | st.integers(0, 9),
    )
    def ask(self, items: list[tuple[int, int]], deadline: int | None) -> None:
        asked = request(len(items), deadline)
        encoded = [item(first, length) for first, length in items]
        new, tokens = self.pending.fresh(encoded)
        before = len(self.pending), self.pending.tokens
        for index, each in enumerate(encoded):
            self.pending.add(asked, index, each)
        assert (len(self.pending), self.pending.tokens) == (before[0] + new, before[1] + tokens)
        self.wanted[asked] = dict(enumerate(encoded))

    @precondition(lambda self: len(self.pending))
    @rule()
    def take(self) -> None:
        batch = self.pending.take(**EVERYTHING)
        assert batch
        self.running += batch

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 99))
    def finish(self, which: int) -> None:
        work = self.running.pop(which % len(self.running))
        self.pending.finish(work)
        for asked, index in work.claims:
            if asked in self.wanted:
                assert self.wanted[asked].pop(index) == work.encoded
        self.wanted = {asked: rest for asked, rest in self.wanted.items() if rest}

    @precondition(lambda self: self.wanted)
    @rule(which=st.integers(0, 99))
    def leave(self, which: int) -> None:
        asked = list(self.wanted)[which % len(self.wanted)]
        self.pending.drop(asked)
        asked.ended = True
        del self.wanted[asked]

    @rule(now=st.integers(0, 9))
    def expire(self, now: int) -> None:
        late = self.pending.expired(now)
        for asked in late:
            assert asked.deadline is not None
            assert asked.deadline <= now
            asked.ended = True
            del self.wanted[asked]

    @invariant()
    def whatever_is_wanted_waits_or_runs_once_and_nothing_else_waits(self) -> None:
        waiting = [*self.pending._window.values(), *self.pending._backlog.values()]
        wanted = {each for rest in self.wanted.values() for each in rest.values()}
        assert {work.encoded for work in waiting} <= wanted
        here = [work.encoded for work in (*waiting, *self.running)]
        assert len(here) == len(set(here))
        assert wanted <= set(here)
        assert self.pending.tokens == sum(len(work.encoded) for work in waiting)
        assert self.pending._lengths == sorted(len(work.encoded) for work in self.pending._window.values())
        assert self.pending._window_tokens == sum(self.pending._lengths)
        for asked in self.wanted:
            queued = {work.key for work in waiting if any(claim[0] is asked for claim in work.claims)}
            assert set(asked.waiting) == queued
            assert set(asked.backlog) == queued & set(self.pending._backlog)
        assert {*self.pending._fresh, *self.pending._entered} == {each for each in self.wanted if each.backlog}


TestQueue = Queue.TestCase
