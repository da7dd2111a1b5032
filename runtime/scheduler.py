"""The queue in front of a matching backend: bounded, length-sorted, deadline-aware, cancellable, poison-proof.

One scheduler per engine, one thread per core. A free thread takes an item and the items nearest to it in length, so an
idle server adds no wait and a busy one fills its batches. Which item: every second batch is built around the oldest
one, the others around the oldest of the request that has been served least. So a request of a thousand items gets at
least half of the batches, and one of a single item does not wait behind it.

It sees token counts and futures; it never sees text or logits.
"""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from runtime.contract import Encoded, JobResult, Limits, Load, Observer, Result
from runtime.errors import BackendFailed, Cancelled, DeadlineExceeded, NotReady, Overloaded, SluiceError
from runtime.packing import gather

logger = logging.getLogger(__name__)

# Weight of the newest batch in the moving estimate of tokens per second.
RATE_WEIGHT = 0.1


class Job:
    """One request: its items are computed in any order and any company and answered in the caller's order."""

    def __init__(self, scheduler: Scheduler, items: Sequence[Encoded], deadline: float | None) -> None:
        self.future: Future[JobResult] = Future()
        # From here on only this class ends the future: a waiter that is cancelled must call `cancel`, which also
        # takes the items out of the queue.
        self.future.set_running_or_notify_cancel()
        self.deadline = deadline
        self.submitted = time.monotonic()
        self.started: float | None = None
        self.waiting: dict[Key, None] = {}  # its queued items, oldest first
        self.served_tokens = 0
        self._scheduler = scheduler
        self._results: list[Result | SluiceError | None] = [None] * len(items)
        self._open = len(items)

    def cancel(self) -> None:
        """The caller left: queued items are dropped before compute, running ones are finished and thrown away."""
        self._scheduler.cancel(self)

    def _finish(self, index: int, result: Result | SluiceError) -> None:
        self._results[index] = result
        self._open -= 1
        if self._open == 0 and not self.future.done():
            started = self.started or time.monotonic()
            done = [result for result in self._results if result is not None]
            self.future.set_result(JobResult(done, started - self.submitted, time.monotonic() - started))


Key = tuple[int, int]  # (length in tokens, number of arrival)


class _Item:
    __slots__ = ("encoded", "index", "job")

    def __init__(self, job: Job, index: int, encoded: Encoded) -> None:
        self.job = job
        self.index = index
        self.encoded = encoded


class Scheduler:
    """Feeds `compute` (a batch of encoded pairs -> their results) from a queue, on `workers` threads."""

    def __init__(
        self,
        compute: Callable[[Sequence[Encoded]], Sequence[Result]],
        limits: Limits,
        workers: int,
        observer: Observer,
    ) -> None:
        self._compute = compute
        self._limits = limits
        self._observer = observer
        self._changed = threading.Condition()
        self._queue: OrderedDict[Key, _Item] = OrderedDict()  # oldest first
        self._keys: list[Key] = []  # the same keys, ascending: shortest first
        self._lengths: list[int] = []  # their lengths, for `gather`
        self._jobs: dict[Job, None] = {}  # those that have queued items, oldest first
        self._number = 0
        self._oldest_is_next = True
        self._queued_tokens = 0
        self._running_items = 0
        self._running_tokens = 0
        self._tokens_per_s = 0.0  # of one worker; 0: not measured yet
        self._closing = False
        self._workers = [
            threading.Thread(target=self._work, name=f"matching-{number}", daemon=True) for number in range(workers)
        ]
        for worker in self._workers:
            worker.start()

    # ------------------------------------------------------------ callers' side

    def submit(self, items: Sequence[Encoded], deadline: float | None) -> Job:
        """Queue a request. Raises Overloaded (with when to come back) or NotReady; never waits."""
        job = Job(self, items, deadline)
        tokens = sum(map(len, items))
        with self._changed:
            if self._closing:
                raise NotReady("The server is draining; retry on another one.")
            self._admit(len(items), tokens, deadline)
            for index, encoded in enumerate(items):
                key = (len(encoded), self._number)
                self._number += 1
                position = bisect_left(self._keys, key)
                self._keys.insert(position, key)
                self._lengths.insert(position, key[0])
                self._queue[key] = _Item(job, index, encoded)
                job.waiting[key] = None
            if items:
                self._jobs[job] = None
            else:
                job.future.set_result(JobResult([], 0.0, 0.0))
            self._queued_tokens += tokens
            self._changed.notify(len(items))
        return job

    def cancel(self, job: Job) -> None:
        """Drop the queued items of `job` and end its future with Cancelled, unless it is done."""
        with self._changed:
            if job.future.done():
                return
            queued = self._drop(job)
            job.future.set_exception(Cancelled("The caller left."))
        self._observer.observe("cancelled", 1, stage="queued" if queued else "running")

    def load(self) -> Load:
        """What is queued and running now."""
        with self._changed:
            tokens = self._queued_tokens + self._running_tokens
            saturation = self._seconds(tokens) / self._limits.target_wait_s
            return Load(
                len(self._queue), self._queued_tokens, self._running_items, self._running_tokens, round(saturation, 4)
            )

    def close(self) -> None:
        """Refuse new work, finish what is queued, end the threads."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.join()

    def _admit(self, items: int, tokens: int, deadline: float | None) -> None:
        limits = self._limits
        in_flight = self._queued_tokens + self._running_tokens
        wait_s = self._seconds(in_flight)
        in_flight_items = len(self._queue) + self._running_items
        problem = None
        # A request larger than the whole queue is let in when nothing else is there: it could never be served else.
        if in_flight_items and in_flight_items + items > limits.max_items:
            problem = (
                f"{in_flight_items} items are in flight and this request has {items}; {limits.max_items} are allowed"
            )
        elif in_flight and in_flight + tokens > limits.max_tokens:
            problem = f"{in_flight} tokens are in flight and this request has {tokens}; {limits.max_tokens} are allowed"
        elif deadline is not None and time.monotonic() + self._seconds(in_flight + tokens) > deadline:
            need_ms, left_ms = self._seconds(in_flight + tokens) * 1000, (deadline - time.monotonic()) * 1000
            problem = (
                f"this request needs about {need_ms:.1f} ms, queue included, and its deadline leaves {left_ms:.1f}"
            )
        if problem:
            self._observer.observe("shed", 1)
            raise Overloaded(f"Overloaded: {problem}. Retry later or send less at once.", retry_after_s=wait_s)

    def _seconds(self, tokens: int) -> float:
        return tokens / (self._tokens_per_s * len(self._workers)) if self._tokens_per_s else 0.0

    def _drop(self, job: Job) -> int:
        queued = list(job.waiting)
        for key in queued:
            self._remove(key)
        return len(queued)

    def _remove(self, key: Key) -> _Item:
        position = bisect_left(self._keys, key)
        del self._keys[position], self._lengths[position]
        self._queued_tokens -= key[0]
        item = self._queue.pop(key)
        del item.job.waiting[key]
        if not item.job.waiting:
            del self._jobs[item.job]
        return item

    # ------------------------------------------------------------ workers' side

    def _work(self) -> None:
        while (batch := self._take()) is not None:
            tokens = sum(len(item.encoded) for item in batch)
            longest = max(len(item.encoded) for item in batch)
            begun = time.monotonic()
            finished = compute_isolated(self._compute, [item.encoded for item in batch])
            took_s = time.monotonic() - begun
            with self._changed:
                self._running_items -= len(batch)
                self._running_tokens -= tokens
                rate = tokens / max(took_s, 1e-6)
                self._tokens_per_s += RATE_WEIGHT * (rate - self._tokens_per_s) if self._tokens_per_s else rate
                for item, result in zip(batch, finished, strict=True):
                    item.job._finish(item.index, result)
            self._observer.observe("batch_items", len(batch))
            self._observer.observe("batch_tokens", tokens)
            self._observer.observe("padding_ratio", 1 - tokens / (longest * len(batch)))
            self._observer.observe("compute_s", took_s)

    def _take(self) -> list[_Item] | None:
        """The next batch; waits for one; None when closing and empty."""
        with self._changed:
            while True:
                self._expire()
                if self._queue:
                    break
                if self._closing:
                    return None
                self._changed.wait()
            anchor = bisect_left(self._keys, self._next_key())
            start, stop = gather(self._lengths, anchor, self._limits)
            batch = [self._remove(key) for key in self._keys[start:stop]]
            now = time.monotonic()
            for item in batch:
                item.job.served_tokens += len(item.encoded)
                if item.job.started is None:
                    item.job.started = now
                    self._observer.observe("queue_s", now - item.job.submitted)
            self._running_items += len(batch)
            self._running_tokens += sum(len(item.encoded) for item in batch)
            return batch

    def _next_key(self) -> Key:
        """The item that the next batch is built around; see the module."""
        oldest = self._oldest_is_next
        self._oldest_is_next = not oldest
        if oldest:
            return next(iter(self._queue))
        return next(iter(min(self._jobs, key=lambda job: job.served_tokens).waiting))

    def _expire(self) -> None:
        """Drop jobs from the head of the queue whose deadline has passed: nobody waits for their answer any more."""
        now = time.monotonic()
        while self._queue:
            job = next(iter(self._queue.values())).job
            if job.deadline is None or job.deadline > now:
                return
            self._drop(job)
            late_ms = (now - job.deadline) * 1000
            job.future.set_exception(
                DeadlineExceeded(
                    f"The deadline passed {late_ms:.0f} ms ago while the request was queued; allow more time."
                )
            )
            self._observer.observe("cancelled", 1, stage="expired")


def compute_isolated(
    compute: Callable[[Sequence[Encoded]], Sequence[Result]], rows: Sequence[Encoded]
) -> list[Result | SluiceError]:
    """Compute a batch; if it fails, halve it until the rows that fail stand alone: their neighbours still succeed."""
    try:
        return list(compute(rows))
    except Exception as error:
        if len(rows) == 1:
            logger.warning("a row of %d tokens failed: %r", len(rows[0]), error)
            return [BackendFailed(f"The model failed on this item ({type(error).__name__}).")]
        middle = len(rows) // 2
        return compute_isolated(compute, rows[:middle]) + compute_isolated(compute, rows[middle:])
