"""Adaptive batching in front of an encoder: bounded, length-sorted, deadline-aware, cancellable, poison-proof.

One scheduler per engine, one thread per core. A free thread takes an item and the items nearest to it in length, so an
idle server adds no wait. How many it takes, and how much padding a batch may carry, follows from what a batch costs on
the running artifact (runtime/cost.py): a busy server converges to the smallest batch that is as good as any. Which item
comes first, and that equal items are computed once, is decided in runtime/pending.py.

It sees token counts and callbacks; it never sees text or logits.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from runtime.contract import Encoded, Limits, Load, Observer, Result
from runtime.cost import CostModel
from runtime.errors import BackendFailed, Cancelled, DeadlineExceeded, NotReady, Overloaded, SluiceError
from runtime.pending import Pending, Request, Sink, Work

logger = logging.getLogger(__name__)

NICENESS = 10  # of the worker threads, above that of the process
# Weight of the newest batch in the moving estimate of tokens per second.
RATE_WEIGHT = 0.1
# The queue's window holds so many batches: large enough for each length to find its like, small enough that what has
# an unusual one is not passed over for long. What came last waits outside of it: whoever leaves soon leaves uncomputed.
WINDOW_BATCHES, LEAST_WINDOW_BATCHES, WINDOW_SHARE = 12, 2, 0.5
# What a request needs is an estimate: it is let in when so many times that is left until its deadline. A refusal at
# once is worth more than an answer that comes too late.
DEADLINE_MARGIN = 1.5
# What waits is given up so many best batches before its deadline, at most this share of its time: then it is refused in
# time, and what is begun is finished in time.
GIVE_UP_BATCHES, GIVE_UP_SHARE = 6, 0.25
Compute = Callable[[Sequence[Encoded]], Sequence[Result]]


class Job:
    """A caller's handle on its request."""

    __slots__ = ("_left_in", "_request", "_scheduler")

    def __init__(self, scheduler: Scheduler, request: Request) -> None:
        self._request = request
        self._scheduler = scheduler
        self._left_in = ""  # the stage in which `cancel` found it

    @property
    def stage(self) -> str:
        """`queued` while one of its items is, then `running`; of a cancelled one, what it was."""
        return self._left_in or ("queued" if self._request.waiting else "running")

    def times(self) -> tuple[float, float]:
        """Seconds in the queue, and in compute since its first item was taken, up to now."""
        now, request = time.monotonic(), self._request
        if request.started is None:
            return now - request.submitted, 0.0
        return request.started - request.submitted, now - request.started

    def cancel(self) -> None:
        """The caller left: queued items are dropped before compute, running ones are finished and thrown away."""
        self._left_in = self._scheduler.cancel(self._request) or self._left_in


class Scheduler:
    """Feeds `compute` (a batch of encoded items -> their results) from a queue, on `workers` threads.

    `compute_alone`: the same for a batch beside which nothing runs or waits; it may use all cores. `clock`: on which a
    thread reads what its batch has cost, default the time of day.
    """

    def __init__(
        self,
        compute: Compute,
        limits: Limits,
        workers: int,
        observer: Observer,
        compute_alone: Compute | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._clock = clock or time.monotonic
        self._compute = compute
        self._compute_alone = compute_alone
        self._limits = limits
        self._observer = observer
        self._changed = threading.Condition()
        self._pending = Pending()
        self._cache = Cache(limits.cache_items)
        self._cost = CostModel()
        self._running_items = 0
        self._running_tokens = 0
        self._tokens_per_s = 0.0  # of one worker; 0: not measured yet
        self._idle = 0  # workers that wait
        self._closing = False
        self._workers = [
            threading.Thread(target=self._work, name=f"encoder-{number}", daemon=True) for number in range(workers)
        ]
        for worker in self._workers:
            worker.start()

    # ------------------------------------------------------------ callers' side

    def submit(self, items: Sequence[Encoded], sink: Sink, deadline: float | None = None) -> Job:
        """Queue a request. `sink` is called once, from any thread, with the JobResult or the error that ended it.

        Raises Overloaded (with when to come back) or NotReady; never waits.
        """
        now = time.monotonic()
        request = Request(len(items), sink, now, deadline, self._give_up(now, deadline))
        complete = not items
        joined = hits = 0
        with self._changed:
            self._check_open()
            self._admit(*self._pending.fresh(items), deadline)
            for index, encoded in enumerate(items):
                known = self._cache.get(encoded)
                if known is not None:
                    hits += 1
                    complete = request.put(index, known)
                elif there := self._pending.add(request, index, encoded):
                    joined += 1
                    if there.key not in request.waiting:
                        request.started = request.submitted  # it runs already
            if self._idle:
                self._changed.notify(len(request.waiting))
        if joined:
            self._observer.observe("coalesced", joined)
        if self._cache.size:
            self._observer.observe("cache", hits, outcome="hit")
            self._observer.observe("cache", len(items) - hits, outcome="miss")
        if complete:
            request.sink(request.answer(request.submitted))
        return Job(self, request)

    def admit(self, items: int, tokens: int, deadline: float | None) -> None:
        """Ask beforehand whether `submit` would refuse that much: cheaper than to tokenise first. Raises as it does."""
        with self._changed:
            self._check_open()
            self._admit(items, tokens, deadline)

    def would_refuse(self, items: int, tokens: int, deadline: float | None) -> bool:
        """Whether `admit` would raise Overloaded. Counts nothing."""
        with self._changed:
            return bool(self._problem(items, tokens, deadline))

    def cancel(self, request: Request) -> str:
        """Drop the queued items of `request` and end it with Cancelled; returns its stage, "" if it was done."""
        with self._changed:
            if request.ended:
                return ""
            request.ended = True
            stage = "queued" if self._pending.drop(request) else "running"
        request.sink(Cancelled("The caller left."))
        self._observer.observe("cancelled", 1, stage=stage)
        return stage

    def load(self) -> Load:
        """What is queued and running now."""
        with self._changed:
            tokens = self._pending.tokens + self._running_tokens
            saturation = self._seconds(tokens) / self._limits.target_wait_s
            return Load(
                len(self._pending),
                self._pending.tokens,
                self._running_items,
                self._running_tokens,
                round(saturation, 4),
            )

    def warm_up(self, batches: Sequence[Sequence[Encoded]]) -> None:
        """Compute these, one after the other, so that the first request pays for nothing and the cost is known."""
        with self._changed:
            for batch in batches:
                begun, spent = time.monotonic(), self._clock()
                self._compute(batch)
                self._learn(batch, self._clock() - spent, warm_up=True)
                self._keep_pace(batch, time.monotonic() - begun)
        logger.info(
            "a batch costs %.2f ms and %.3f ms a token; the best one has %s tokens",
            self._cost.fixed_s * 1000,
            self._cost.token_s * 1000,
            self._budget(),
        )

    def close(self) -> None:
        """Refuse new work, finish what is queued, end the threads."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.join()

    def _check_open(self) -> None:
        if self._closing:
            raise NotReady("The server is draining; retry on another one.")

    def _admit(self, items: int, tokens: int, deadline: float | None) -> None:
        if problem := self._problem(items, tokens, deadline):
            self._observer.observe("shed", 1)
            in_flight = self._pending.tokens + self._running_tokens
            raise Overloaded(
                f"Overloaded: {problem}. Retry later or send less at once.", retry_after_s=self._seconds(in_flight)
            )

    def _problem(self, items: int, tokens: int, deadline: float | None) -> str:
        """Why so much more is too much; "" when it is not."""
        limits = self._limits
        in_flight = self._pending.tokens + self._running_tokens
        in_flight_items = len(self._pending) + self._running_items
        # A request larger than the whole queue is let in when nothing else is there: it could never be served else.
        if in_flight_items and in_flight_items + items > limits.max_items:
            return f"{in_flight_items} items are in flight and this request has {items}; {limits.max_items} are allowed"
        if in_flight and in_flight + tokens > limits.max_tokens:
            return f"{in_flight} tokens are in flight and this request has {tokens}; {limits.max_tokens} are allowed"
        if deadline is not None:
            need_s, left_s = DEADLINE_MARGIN * self._seconds(in_flight + tokens), deadline - time.monotonic()
            if need_s > left_s:
                return (
                    f"this request needs up to {need_s * 1000:.1f} ms, queue included, and its deadline leaves "
                    f"{left_s * 1000:.1f}"
                )
        return ""

    def _seconds(self, tokens: int) -> float:
        return tokens / (self._tokens_per_s * len(self._workers)) if self._tokens_per_s else 0.0

    def _give_up(self, now: float, deadline: float | None) -> float | None:
        if deadline is None:
            return None
        batch_s = self._budget() / self._tokens_per_s if self._tokens_per_s else 0.0
        return deadline - max(0.0, min(GIVE_UP_BATCHES * batch_s, GIVE_UP_SHARE * (deadline - now)))

    def _budget(self) -> int:
        return int(min(self._cost.budget_tokens, self._limits.batch_tokens))

    def _window(self, budget: int) -> int:
        share = int(WINDOW_SHARE * self._pending.tokens)
        return max(LEAST_WINDOW_BATCHES * budget, min(WINDOW_BATCHES * budget, share))

    def _learn(self, batch: Sequence[Encoded], cost_s: float, *, warm_up: bool = False) -> None:
        self._cost.observe(max(map(len, batch)) * len(batch), cost_s, warm_up=warm_up)

    def _keep_pace(self, batch: Sequence[Encoded], took_s: float) -> None:
        rate = sum(map(len, batch)) / max(took_s, 1e-6)
        self._tokens_per_s += RATE_WEIGHT * (rate - self._tokens_per_s) if self._tokens_per_s else rate

    # ------------------------------------------------------------ workers' side

    def _work(self) -> None:
        # A thread has a niceness of its own on Linux. Under overload the thread that answers and refuses must not queue
        # for a core behind those that compute.
        niceness = os.getpriority(os.PRIO_PROCESS, 0) + NICENESS
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
        free_since: float | None = None  # on the clock of costs
        while (taken := self._take()) is not None:
            batch, alone, waited = taken
            rows = [work.encoded for work in batch]
            tokens = sum(map(len, rows))
            begun, since = time.monotonic(), self._clock()
            results = compute_isolated(self._compute_alone if alone and self._compute_alone else self._compute, rows)
            ended, now = time.monotonic(), self._clock()
            complete: list[Request] = []
            with self._changed:
                self._running_items -= len(batch)
                self._running_tokens -= tokens
                if not alone or self._compute_alone is None:
                    # What lies between two batches is part of the cost, unless it was for want of work.
                    self._learn(rows, now - (since if waited or free_since is None else free_since))
                    self._keep_pace(rows, ended - begun)
                for work, result in zip(batch, results, strict=True):
                    self._pending.finish(work)
                    if not isinstance(result, SluiceError):
                        self._cache.put(work.encoded, result)
                    complete += [request for request, index in work.claims if request.put(index, result)]
            free_since = now
            for request in complete:
                safely(request.sink, request.answer(ended))
            safely(self._observer.observe, "batch_items", len(batch))
            safely(self._observer.observe, "batch_tokens", tokens)
            safely(self._observer.observe, "padding_ratio", 1 - tokens / (max(map(len, rows)) * len(batch)))
            safely(self._observer.observe, "compute_s", ended - begun)

    def _take(self) -> tuple[list[Work], bool, bool] | None:
        """The next batch, whether nothing runs or waits beside it, and whether it was waited for.

        None when closing and empty.
        """
        begun: list[Request] = []
        waited = False
        with self._changed:
            while True:
                self._expire()
                if self._pending:
                    break
                if self._closing:
                    return None
                waited = True
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
            budget = self._budget()
            batch = self._pending.take(
                items=self._limits.batch_items,
                tokens=budget,
                padding_tokens=self._cost.fixed_tokens,
                window_tokens=self._window(budget),
            )
            now = time.monotonic()
            for work in batch:
                for request, _ in work.claims:
                    if request.started is None:
                        request.started = now
                        begun.append(request)
            alone = not self._running_items and not self._pending
            self._running_items += len(batch)
            self._running_tokens += sum(len(work.encoded) for work in batch)
        for request in begun:
            safely(self._observer.observe, "queue_s", now - request.submitted)
        return batch, alone, waited

    def _expire(self) -> None:
        """End the requests that wait in vain: too late already, or too late by the time they would be computed."""
        now = time.monotonic()
        for request in self._pending.expired(now):
            request.ended = True
            assert request.deadline is not None
            left_ms = (request.deadline - now) * 1000
            if left_ms > 0:
                tokens = self._pending.tokens + self._running_tokens
                safely(self._observer.observe, "shed", 1)
                safely(
                    request.sink,
                    Overloaded(
                        f"Overloaded: the request waited {(now - request.submitted) * 1000:.0f} ms, and its deadline "
                        f"leaves {left_ms:.0f}. Retry later or allow more time.",
                        retry_after_s=self._seconds(tokens),
                    ),
                )
                continue
            safely(self._observer.observe, "cancelled", 1, stage="expired")
            safely(
                request.sink,
                DeadlineExceeded(
                    f"The deadline passed {-left_ms:.0f} ms ago while the request was queued; allow more time."
                ),
            )


def safely(call: Callable[..., None], *arguments: Any, **options: Any) -> None:
    """Call an observer or a sink from a worker: one that fails ends neither the thread nor anybody else's request."""
    try:
        call(*arguments, **options)
    except Exception:
        logger.exception("%r failed", call)


class Cache:
    """The most recently used results of an artifact, at most `size`; 0 keeps none. It lives and dies with its engine:
    no result of another artifact can be in it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._results: OrderedDict[Encoded, Result] = OrderedDict()

    def get(self, encoded: Encoded) -> Result | None:
        """The result of an equal item, if it is kept."""
        if not self.size:
            return None
        result = self._results.get(encoded)
        if result is not None:
            self._results.move_to_end(encoded)
        return result

    def put(self, encoded: Encoded, result: Result) -> None:
        """Keep a result; the one that was not used for longest gives way."""
        if not self.size:
            return
        self._results[encoded] = result
        self._results.move_to_end(encoded)
        if len(self._results) > self.size:
            self._results.popitem(last=False)


def compute_isolated(compute: Compute, rows: Sequence[Encoded]) -> list[Result | SluiceError]:
    """Compute a batch; if it fails, halve it until the rows that fail stand alone: their neighbours still succeed."""
    try:
        return list(compute(rows))
    except Exception as error:
        if len(rows) == 1:
            logger.warning("a row of %d tokens failed: %r", len(rows[0]), error)
            return [BackendFailed(f"The model failed on this item ({type(error).__name__}).")]
        middle = len(rows) // 2
        return compute_isolated(compute, rows[:middle]) + compute_isolated(compute, rows[middle:])
