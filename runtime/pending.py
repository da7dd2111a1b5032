"""What waits for a batch: items found by age, by length, by content, by request and by deadline.

No threads, no clock, no model: the scheduler holds its lock around every call. An item that is asked for while an equal
one waits or runs joins it, so it is computed once; it leaves when the last request that wanted it has left.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import count

from runtime.contract import Encoded, JobResult, Result
from runtime.errors import SluiceError
from runtime.packing import gather

KEPT_DEADLINES = 256
Sink = Callable[[JobResult | SluiceError], None]
Key = tuple[int, int]  # (length in tokens, number of arrival)


class Request:
    """One caller's items, computed in any order and any company and answered in the caller's order.

    `sink` takes the answer or the error, once. Times are on `time.monotonic()`.
    """

    __slots__ = ("_open", "_results", "deadline", "ended", "served_tokens", "sink", "started", "submitted", "waiting")

    def __init__(self, size: int, sink: Sink, deadline: float | None, submitted: float) -> None:
        self.sink = sink
        self.deadline = deadline
        self.submitted = submitted
        self.started: float | None = None
        self.ended = False  # its sink was called, or is about to be
        self.waiting: dict[Key, Work] = {}  # its queued items, oldest first
        self.served_tokens = 0
        self._results: list[Result | SluiceError | None] = [None] * size
        self._open = size

    def put(self, index: int, result: Result | SluiceError) -> bool:
        """Take one result; True with the last one, once."""
        self._results[index] = result
        self._open -= 1
        if self._open or self.ended:
            return False
        self.ended = True
        return True

    def answer(self, now: float) -> JobResult:
        """All results, in order."""
        started = self.submitted if self.started is None else self.started
        done = [result for result in self._results if result is not None]
        return JobResult(done, started - self.submitted, now - started)


class Work:
    """One computation, and the places in requests that wait for it."""

    __slots__ = ("claims", "encoded", "key")

    def __init__(self, encoded: Encoded, key: Key) -> None:
        self.encoded = encoded
        self.key = key
        self.claims: list[tuple[Request, int]] = []


class Pending:
    """See the module."""

    def __init__(self) -> None:
        self.tokens = 0
        self._queue: OrderedDict[Key, Work] = OrderedDict()  # oldest first
        self._keys: list[Key] = []  # the same keys, ascending: shortest first
        self._lengths: list[int] = []  # their lengths, for `gather`
        self._by_content: dict[Encoded, Work] = {}  # queued and running
        self._unserved: dict[Request, None] = {}  # requests with queued items, oldest first: none computed yet
        self._served: dict[Request, None] = {}  # … and some computed
        self._deadlines: list[tuple[float, int, Request]] = []  # a heap
        self._ties = count()  # the heap never compares requests
        self._number = 0
        self._oldest_is_next = True

    def __len__(self) -> int:
        return len(self._queue)

    def fresh(self, items: Sequence[Encoded]) -> tuple[int, int]:
        """How many of `items` are neither here nor equal to one before them, and their tokens."""
        new = {item for item in items if item not in self._by_content}
        return len(new), sum(map(len, new))

    def add(self, request: Request, index: int, encoded: Encoded) -> Work | None:
        """Queue one item of `request`; the work it joined instead, if an equal one is here."""
        there = self._by_content.get(encoded)
        if there is not None:
            there.claims.append((request, index))
            if there.key in self._queue:
                self._wait(request, there)
            return there
        work = Work(encoded, (len(encoded), self._number))
        self._number += 1
        work.claims.append((request, index))
        position = bisect_left(self._keys, work.key)
        self._keys.insert(position, work.key)
        self._lengths.insert(position, len(encoded))
        self._queue[work.key] = self._by_content[encoded] = work
        self._wait(request, work)
        self.tokens += len(encoded)
        return None

    def take(self, *, items: int, tokens: int, padding_tokens: float) -> list[Work]:
        """Take out the next batch; something must be queued. See `gather` for the arguments.

        Every second batch is built around the oldest item, the others around the oldest of the request that has been
        served least: an item with k older ones is taken within 2 k + 2 batches, whatever its length, and a request of
        one item does not wait behind one of a thousand.
        """
        anchor = bisect_left(self._keys, self._next_key())
        start, stop = gather(self._lengths, anchor, items=items, tokens=tokens, padding_tokens=padding_tokens)
        batch = [self._remove(key) for key in self._keys[start:stop]]
        for work in batch:
            for request, _ in work.claims:
                request.served_tokens += len(work.encoded)
                if request.waiting and request in self._unserved:
                    del self._unserved[request]
                    self._served[request] = None
        return batch

    def finish(self, work: Work) -> None:
        """Its result is there: from now on an equal item is computed anew."""
        del self._by_content[work.encoded]

    def drop(self, request: Request) -> int:
        """Take out what only `request` waits for; how many of its items were still queued."""
        waiting = list(request.waiting.values())
        for work in waiting:
            self._leave(request, work)
            work.claims = [claim for claim in work.claims if claim[0] is not request]
            if not work.claims:
                self._remove(work.key)
                del self._by_content[work.encoded]
        return len(waiting)

    def expired(self, now: float) -> list[Request]:
        """Take out the requests whose deadline has passed."""
        late = []
        while self._deadlines and self._deadlines[0][0] <= now:
            request = heapq.heappop(self._deadlines)[2]
            if request.waiting and not request.ended:
                self.drop(request)
                late.append(request)
        return late

    def _wait(self, request: Request, work: Work) -> None:
        if not request.waiting:
            self._unserved[request] = None
            if request.deadline is not None:
                heapq.heappush(self._deadlines, (request.deadline, next(self._ties), request))
                if len(self._deadlines) > KEPT_DEADLINES + 2 * (len(self._unserved) + len(self._served)):
                    # Mostly of requests that were answered in time: let go of them.
                    self._deadlines = [entry for entry in self._deadlines if entry[2].waiting]
                    heapq.heapify(self._deadlines)
        request.waiting[work.key] = work

    def _next_key(self) -> Key:
        oldest = self._oldest_is_next
        self._oldest_is_next = not oldest
        if oldest:
            return next(iter(self._queue))
        if self._unserved:
            request = next(iter(self._unserved))
        else:
            request = min(self._served, key=lambda each: each.served_tokens)
        return next(iter(request.waiting))

    def _remove(self, key: Key) -> Work:
        position = bisect_left(self._keys, key)
        del self._keys[position], self._lengths[position]
        self.tokens -= key[0]
        work = self._queue.pop(key)
        for request, _ in work.claims:
            self._leave(request, work)
        return work

    def _leave(self, request: Request, work: Work) -> None:
        # A request may claim a work twice, when it asks for the same item twice.
        if request.waiting.pop(work.key, None) is not None and not request.waiting:
            self._unserved.pop(request, None)
            self._served.pop(request, None)
