"""The matching queue: order, bounds, deadlines, cancellation, poison. The backend is a function that the test holds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.contract import Encoded, Limits, PairResult
from runtime.errors import BackendFailed, Cancelled, DeadlineExceeded, NotReady, Overloaded
from runtime.scheduler import Scheduler

pytestmark = pytest.mark.unit
Compute = Callable[[Sequence[Encoded]], Sequence[PairResult]]


class Events:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def observe(self, event: str, value: float, **labels: Any) -> None:
        self.seen.append((event, labels))

    def count(self, event: str, **labels: Any) -> int:
        return self.seen.count((event, labels))


class Gate:
    """A backend whose first batch waits until the test opens it; scores are the first token over 1000."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, rows: Sequence[Encoded]) -> list[PairResult]:
        self.entered.set()
        assert self.open.wait(10)
        self.batches.append([row.ids[0] for row in rows])
        if any(row.ids[0] == 666 for row in rows):
            raise RuntimeError("poison")
        return [PairResult(row.ids[0] / 1000, len(row)) for row in rows]


def item(first: int, length: int = 4) -> Encoded:
    return Encoded((first,) * length, (0,) * length)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def scheduler(gate: Gate, events: Events) -> Iterator[Scheduler]:
    made = Scheduler(gate, Limits(max_items=8, max_tokens=200, batch_items=4), workers=1, observer=events)
    yield made
    gate.open.set()
    made.close()


def occupy(scheduler: Scheduler, gate: Gate) -> Any:
    """Keep the only worker busy with one item."""
    job = scheduler.submit([item(1)], None)
    assert gate.entered.wait(10)
    return job


def test_results_come_in_the_callers_order_whatever_the_lengths(scheduler: Scheduler, gate: Gate) -> None:
    gate.open.set()
    job = scheduler.submit([item(n, length) for n, length in ((5, 30), (7, 2), (6, 17), (8, 2))], None)
    scores = [result.score for result in job.future.result(10).items if isinstance(result, PairResult)]
    assert scores == [0.005, 0.007, 0.006, 0.008]


def test_the_oldest_item_is_always_in_the_next_batch(scheduler: Scheduler, gate: Gate) -> None:
    occupy(scheduler, gate)
    jobs = [scheduler.submit([item(n, length)], None) for n, length in ((2, 30), (3, 5), (4, 5), (5, 5))]
    gate.open.set()
    for job in jobs:
        job.future.result(10)
    assert gate.batches == [[1], [2], [3, 4, 5]]


def test_a_small_request_does_not_wait_behind_a_large_one(gate: Gate, events: Events) -> None:
    scheduler = Scheduler(gate, Limits(batch_items=4), workers=1, observer=events)
    scheduler.submit([item(n) for n in range(1, 41)], None)
    assert gate.entered.wait(10)
    small = scheduler.submit([item(99, 20)], None)
    gate.open.set()
    small.future.result(10)
    # At most the batch that was running and one around the oldest item came first.
    assert gate.batches.index([99]) <= 2
    scheduler.close()


def test_a_request_of_nothing_is_answered_with_nothing(scheduler: Scheduler) -> None:
    assert scheduler.submit([], None).future.result(10).items == []


def test_a_large_request_gets_half_of_the_batches_while_small_ones_keep_coming(events: Events) -> None:
    batches: list[set[int]] = []

    def compute(rows: Sequence[Encoded]) -> list[PairResult]:
        batches.append({row.ids[0] for row in rows})
        # For every batch another small request arrives, so that there is always one that was served less.
        if len(batches) < 100:
            scheduler.submit([item(7, 30)], None)
        return [PairResult(0.5, len(row)) for row in rows]

    scheduler = Scheduler(compute, Limits(batch_items=4), workers=1, observer=events)
    scheduler.submit([item(7, 30), item(7, 30)], None)
    large = scheduler.submit([item(1, 5)] * 40, None)
    large.future.result(10)
    scheduler.close()
    mine = [number for number, batch in enumerate(batches) if 1 in batch]
    assert len(mine) == 10
    assert mine[-1] - mine[0] <= 2 * 10


def test_a_full_queue_refuses_and_says_when_to_come_back(scheduler: Scheduler, gate: Gate, events: Events) -> None:
    occupy(scheduler, gate)
    scheduler.submit([item(n) for n in range(2, 9)], None)
    with pytest.raises(Overloaded) as caught:
        scheduler.submit([item(9)], None)
    assert "8 items are in flight" in caught.value.message
    assert caught.value.retry_after_s >= 0
    assert events.count("shed") == 1


def test_the_queue_is_bounded_in_tokens_too(scheduler: Scheduler, gate: Gate) -> None:
    occupy(scheduler, gate)
    with pytest.raises(Overloaded, match="200 are allowed"):
        scheduler.submit([item(2, 198)], None)


def test_a_request_larger_than_the_queue_is_served_when_nothing_else_is(scheduler: Scheduler, gate: Gate) -> None:
    gate.open.set()
    assert len(scheduler.submit([item(n) for n in range(20)], None).future.result(10).items) == 20


def test_an_expired_item_leaves_before_compute(scheduler: Scheduler, gate: Gate, events: Events) -> None:
    occupy(scheduler, gate)
    late = scheduler.submit([item(2)], time.monotonic() + 0.01)
    time.sleep(0.02)
    gate.open.set()
    with pytest.raises(DeadlineExceeded):
        late.future.result(10)
    scheduler.submit([item(3)], None).future.result(10)
    assert [2] not in gate.batches
    assert events.count("cancelled", stage="expired") == 1


def test_a_cancelled_item_leaves_the_queue_and_is_counted_with_its_stage(
    scheduler: Scheduler, gate: Gate, events: Events
) -> None:
    running = occupy(scheduler, gate)
    queued = scheduler.submit([item(2), item(3)], None)
    queued.cancel()
    running.cancel()
    assert scheduler.load().queued_items == 0
    gate.open.set()
    for job in (queued, running):
        with pytest.raises(Cancelled):
            job.future.result(10)
    assert events.count("cancelled", stage="queued") == 1
    assert events.count("cancelled", stage="running") == 1
    assert gate.batches in ([], [[1]])


def test_poison_fails_alone(scheduler: Scheduler, gate: Gate) -> None:
    occupy(scheduler, gate)
    job = scheduler.submit([item(2), item(666), item(3), item(4)], None)
    gate.open.set()
    results = job.future.result(10).items
    assert isinstance(results[1], BackendFailed)
    assert [r.score for r in results if isinstance(r, PairResult)] == [0.002, 0.003, 0.004]


def test_close_finishes_what_is_queued_and_refuses_the_rest(gate: Gate, events: Events) -> None:
    scheduler = Scheduler(gate, Limits(), workers=1, observer=events)
    job = scheduler.submit([item(1)], None)
    threading.Timer(0.05, gate.open.set).start()
    scheduler.close()
    assert job.future.done()
    with pytest.raises(NotReady):
        scheduler.submit([item(2)], None)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(2, 600), st.integers(1, 60)), min_size=1, max_size=9), max_size=12),
    st.sets(st.integers(0, 11)),
)
def test_every_job_ends_exactly_once_with_its_own_results(
    requests: list[list[tuple[int, int]]], abandoned: set[int]
) -> None:
    def compute(rows: Sequence[Encoded]) -> list[PairResult]:
        return [PairResult(row.ids[0] / 1000, len(row)) for row in rows]

    scheduler = Scheduler(compute, Limits(batch_items=5), workers=3, observer=Events())
    jobs = [scheduler.submit([item(n, length) for n, length in request], None) for request in requests]
    for number in abandoned & set(range(len(jobs))):
        jobs[number].cancel()
    for number, (job, request) in enumerate(zip(jobs, requests, strict=True)):
        error = job.future.exception(10)
        if error is None:
            got = [(r.score, r.tokens) for r in job.future.result().items if isinstance(r, PairResult)]
            assert got == [(n / 1000, length) for n, length in request]
        else:
            assert isinstance(error, Cancelled)
            assert number in abandoned
    scheduler.close()
    load = scheduler.load()
    assert (load.queued_items, load.queued_tokens, load.running_items, load.running_tokens) == (0, 0, 0, 0)
