"""The matching queue: order, bounds, deadlines, cancellation, poison. The backend is a function that the test holds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.contract import Encoded, JobResult, Limits, Load, PairResult
from runtime.errors import BackendFailed, Cancelled, DeadlineExceeded, NotReady, Overloaded, SluiceError
from runtime.scheduler import Scheduler

pytestmark = pytest.mark.unit
Compute = Callable[[Sequence[Encoded]], Sequence[PairResult]]


class Events:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.values: list[float] = []

    def observe(self, event: str, value: float, **labels: Any) -> None:
        self.seen.append((event, labels))
        self.values.append(value)

    def total(self, event: str, **labels: Any) -> float:
        return sum(value for seen, value in zip(self.seen, self.values, strict=True) if seen == (event, labels))

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

    def computed(self) -> list[int]:
        return [first for batch in self.batches for first in batch]


class Asked:
    """A submitted request whose end can be waited for."""

    def __init__(self) -> None:
        self.future: Future[JobResult] = Future()
        self.cancel: Callable[[], None] = lambda: None

    def take(self, outcome: JobResult | SluiceError) -> None:
        if isinstance(outcome, SluiceError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


def submit(scheduler: Scheduler, items: Sequence[Encoded], deadline: float | None = None) -> Asked:
    asked = Asked()
    asked.cancel = scheduler.submit(items, asked.take, deadline).cancel
    return asked


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
    job = submit(scheduler, [item(1)])
    assert gate.entered.wait(10)
    return job


def test_results_come_in_the_callers_order_whatever_the_lengths(scheduler: Scheduler, gate: Gate) -> None:
    gate.open.set()
    job = submit(scheduler, [item(n, length) for n, length in ((5, 30), (7, 2), (6, 17), (8, 2))])
    scores = [result.score for result in job.future.result(10).items if isinstance(result, PairResult)]
    assert scores == [0.005, 0.007, 0.006, 0.008]


def test_the_oldest_item_is_always_in_the_next_batch(scheduler: Scheduler, gate: Gate) -> None:
    occupy(scheduler, gate)
    jobs = [submit(scheduler, [item(n, length)]) for n, length in ((2, 30), (3, 5), (4, 5), (5, 5))]
    gate.open.set()
    for job in jobs:
        job.future.result(10)
    assert gate.batches == [[1], [2], [3, 4, 5]]


def test_a_small_request_does_not_wait_behind_a_large_one(gate: Gate, events: Events) -> None:
    scheduler = Scheduler(gate, Limits(batch_items=4), workers=1, observer=events)
    submit(scheduler, [item(n) for n in range(1, 41)])
    assert gate.entered.wait(10)
    small = submit(scheduler, [item(99, 20)])
    gate.open.set()
    small.future.result(10)
    # At most the batch that was running and one around the oldest item came first.
    assert gate.batches.index([99]) <= 2
    scheduler.close()


def test_a_request_of_nothing_is_answered_with_nothing(scheduler: Scheduler) -> None:
    assert submit(scheduler, []).future.result(10).items == []


def test_a_large_request_gets_half_of_the_batches_while_small_ones_keep_coming(events: Events) -> None:
    batches: list[set[int]] = []
    release = threading.Event()

    def compute(rows: Sequence[Encoded]) -> list[PairResult]:
        assert release.wait(10)
        batches.append({row.ids[0] for row in rows})
        # For every batch another small request arrives, so that there is always one that was served less.
        if len(batches) < 100:
            submit(scheduler, [item(1000 + len(batches), 30)])
        return [PairResult(0.5, len(row)) for row in rows]

    scheduler = Scheduler(compute, Limits(batch_items=1), workers=1, observer=events)
    submit(scheduler, [item(998, 30), item(999, 30)])
    large = submit(scheduler, [item(n, 5) for n in range(1, 41)])
    release.set()
    large.future.result(10)
    scheduler.close()
    mine = [number for number, batch in enumerate(batches) if min(batch) <= 40]
    assert len(mine) == 40
    assert mine[-1] - mine[0] <= 2 * 40


def test_an_equal_item_in_flight_is_computed_once_and_answers_everybody(
    scheduler: Scheduler, gate: Gate, events: Events
) -> None:
    running = occupy(scheduler, gate)
    jobs = [submit(scheduler, [item(1), item(2), item(2)]) for _ in range(3)]
    gate.open.set()
    for job in jobs:
        scores = [result.score for result in job.future.result(10).items if isinstance(result, PairResult)]
        assert scores == [0.001, 0.002, 0.002]
    running.future.result(10)
    assert sorted(gate.computed()) == [1, 2]
    assert events.count("coalesced") == 3
    # Nothing is kept: the next one is computed anew.
    submit(scheduler, [item(2)]).future.result(10)
    assert sorted(gate.computed()) == [1, 2, 2]


def test_who_leaves_does_not_take_an_item_away_from_another(scheduler: Scheduler, gate: Gate) -> None:
    occupy(scheduler, gate)
    first, second = submit(scheduler, [item(2)]), submit(scheduler, [item(2)])
    first.cancel()
    assert scheduler.load().queued_items == 1
    gate.open.set()
    assert isinstance(second.future.result(10).items[0], PairResult)
    third, fourth = submit(scheduler, [item(3)]), submit(scheduler, [item(3)])
    third.cancel()
    fourth.cancel()
    scheduler.close()
    assert scheduler.load() == Load(0, 0, 0, 0, 0.0)


def test_a_cache_answers_without_compute_and_forgets_what_is_old(gate: Gate, events: Events) -> None:
    gate.open.set()
    scheduler = Scheduler(gate, Limits(cache_items=2), workers=1, observer=events)
    for number in (2, 2, 3, 4, 2):
        result = submit(scheduler, [item(number)]).future.result(10).items[0]
        assert isinstance(result, PairResult)
        assert result.score == number / 1000
    assert gate.computed() == [2, 3, 4, 2]
    assert events.count("cache", outcome="hit") == events.count("cache", outcome="miss") == 5
    assert events.total("cache", outcome="hit") == 1
    assert submit(scheduler, [item(4), item(2)]).future.result(10).queue_s == 0
    scheduler.close()


def test_a_failure_is_not_kept(gate: Gate, events: Events) -> None:
    gate.open.set()
    scheduler = Scheduler(gate, Limits(cache_items=9), workers=1, observer=events)
    for _ in range(2):
        assert isinstance(submit(scheduler, [item(666)]).future.result(10).items[0], BackendFailed)
    assert events.total("cache", outcome="hit") == 0
    scheduler.close()


def test_what_would_be_too_late_when_computed_is_refused_in_time(
    scheduler: Scheduler, gate: Gate, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("runtime.scheduler.time", SimpleNamespace(monotonic=lambda: clock[0]))
    occupy(scheduler, gate)
    waiting = submit(scheduler, [item(2)], 101.0)
    scheduler._tokens_per_s = 2000.0  # the best batch, 76 tokens, takes 38 ms
    late = submit(scheduler, [item(3)], 101.0)
    clock[0] = 100.95
    gate.open.set()
    with pytest.raises(Overloaded, match="its deadline leaves 50"):
        late.future.result(10)
    # The cost was not known when this one came: nothing is held back from it.
    assert isinstance(waiting.future.result(10).items[0], PairResult)
    assert events.count("shed") == 1


def test_a_deadline_is_seen_behind_an_older_item_that_has_none(scheduler: Scheduler, gate: Gate) -> None:
    occupy(scheduler, gate)
    patient = submit(scheduler, [item(2, 30)])
    late = submit(scheduler, [item(3)], time.monotonic() + 0.01)
    time.sleep(0.02)
    gate.open.set()
    with pytest.raises(DeadlineExceeded):
        late.future.result(10)
    patient.future.result(10)
    assert gate.batches == [[1], [2]]


def test_what_cannot_be_done_in_time_is_refused_before_it_is_queued(events: Events) -> None:
    def compute(rows: Sequence[Encoded]) -> list[PairResult]:
        time.sleep(0.05)
        return [PairResult(0.5, len(row)) for row in rows]

    scheduler = Scheduler(compute, Limits(batch_items=1), workers=1, observer=events)
    submit(scheduler, [item(1)]).future.result(10)
    submit(scheduler, [item(n) for n in range(2, 22)])
    with pytest.raises(Overloaded, match="its deadline leaves") as caught:
        submit(scheduler, [item(30)], time.monotonic() + 0.2)
    assert 0.2 < caught.value.retry_after_s < 5
    assert scheduler.would_refuse(1, 0, time.monotonic() + 0.2)
    assert not scheduler.would_refuse(1, 0, None)
    assert events.count("shed") == 1  # asking counts nothing
    with pytest.raises(Overloaded):
        scheduler.admit(1, 0, time.monotonic() + 0.2)
    scheduler.close()


def test_batches_are_as_large_as_their_measured_cost_says(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fixed part of 4 ms and 0.1 ms a token the best batch has 760 tokens; 4 ms pay for 40 tokens of padding."""
    sizes: list[list[int]] = []
    clock = [0.0]
    monkeypatch.setattr("runtime.scheduler.time", SimpleNamespace(monotonic=lambda: clock[0]))

    def compute(rows: Sequence[Encoded]) -> list[PairResult]:
        sizes.append([len(row) for row in rows])
        clock[0] += 0.004 + 0.0001 * max(map(len, rows)) * len(rows)
        return [PairResult(0.5, len(row)) for row in rows]

    scheduler = Scheduler(compute, Limits(batch_items=100), workers=1, observer=events)
    scheduler.warm_up([[item(0, length)] * rows for rows, length in ((1, 10), (1, 100), (8, 10), (8, 40))])
    sizes.clear()
    submit(scheduler, [item(n, 10 + n % 3) for n in range(1, 300)]).future.result(20)
    scheduler.close()
    padded = [max(size) * len(size) for size in sizes]
    padding = [max(size) * len(size) - sum(size) for size in sizes]
    assert max(padded) <= 760
    assert max(padding) <= 40
    # Three lengths of a hundred items each, 63 to 76 of which fill a batch.
    assert len(sizes) <= 8


def test_a_full_queue_refuses_and_says_when_to_come_back(scheduler: Scheduler, gate: Gate, events: Events) -> None:
    occupy(scheduler, gate)
    submit(scheduler, [item(n) for n in range(2, 9)])
    with pytest.raises(Overloaded) as caught:
        submit(scheduler, [item(9)])
    assert "8 items are in flight" in caught.value.message
    assert caught.value.retry_after_s >= 0
    assert events.count("shed") == 1


def test_the_queue_is_bounded_in_tokens_too(scheduler: Scheduler, gate: Gate) -> None:
    occupy(scheduler, gate)
    with pytest.raises(Overloaded, match="200 are allowed"):
        submit(scheduler, [item(2, 198)])


def test_a_request_larger_than_the_queue_is_served_when_nothing_else_is(scheduler: Scheduler, gate: Gate) -> None:
    gate.open.set()
    assert len(submit(scheduler, [item(n) for n in range(20)]).future.result(10).items) == 20


def test_an_expired_item_leaves_before_compute(scheduler: Scheduler, gate: Gate, events: Events) -> None:
    occupy(scheduler, gate)
    late = submit(scheduler, [item(2)], time.monotonic() + 0.01)
    time.sleep(0.02)
    gate.open.set()
    with pytest.raises(DeadlineExceeded):
        late.future.result(10)
    submit(scheduler, [item(3)]).future.result(10)
    assert [2] not in gate.batches
    assert events.count("cancelled", stage="expired") == 1


def test_a_cancelled_item_leaves_the_queue_and_is_counted_with_its_stage(
    scheduler: Scheduler, gate: Gate, events: Events
) -> None:
    running = occupy(scheduler, gate)
    queued = submit(scheduler, [item(2), item(3)])
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
    job = submit(scheduler, [item(2), item(666), item(3), item(4)])
    gate.open.set()
    results = job.future.result(10).items
    assert isinstance(results[1], BackendFailed)
    assert [r.score for r in results if isinstance(r, PairResult)] == [0.002, 0.003, 0.004]


def test_a_sink_or_an_observer_that_fails_ends_no_worker(gate: Gate) -> None:
    class Broken(Events):
        def observe(self, event: str, value: float, **labels: Any) -> None:
            if event != "shed":
                raise RuntimeError("broken")

    def fail(_: object) -> None:
        raise RuntimeError("broken")

    gate.open.set()
    scheduler = Scheduler(gate, Limits(), workers=1, observer=Broken())
    scheduler.submit([item(1)], fail)
    assert len(submit(scheduler, [item(2)]).future.result(10).items) == 1
    scheduler.close()


def test_close_finishes_what_is_queued_and_refuses_the_rest(gate: Gate, events: Events) -> None:
    scheduler = Scheduler(gate, Limits(), workers=1, observer=events)
    job = submit(scheduler, [item(1)])
    threading.Timer(0.05, gate.open.set).start()
    scheduler.close()
    assert job.future.done()
    with pytest.raises(NotReady):
        submit(scheduler, [item(2)])


@settings(max_examples=30)
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
    jobs = [submit(scheduler, [item(n, length) for n, length in request]) for request in requests]
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
