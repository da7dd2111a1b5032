"""What waits for a batch: items found by age, by length, by content, by request and by deadline.

Items wait in two places. The backlog is fair among requests and blind to lengths; the window in front of it, a few
batches large, is sorted by length. So items find their like, and none is passed over by more than a window of others.

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

    `sink` takes the answer or the error, once. `give_up`: when what still waits is not worth starting, because it could
    not be answered by the `deadline`. Times are on `time.monotonic()`.
    """

    __slots__ = (
        "_open",
        "_results",
        "backlog",
        "deadline",
        "ended",
        "entered_tokens",
        "give_up",
        "served_tokens",
        "sink",
        "started",
        "submitted",
        "waiting",
    )

    def __init__(
        self, size: int, sink: Sink, submitted: float, deadline: float | None = None, give_up: float | None = None
    ) -> None:
        self.sink = sink
        self.deadline = deadline
        self.give_up = deadline if give_up is None else give_up
        self.submitted = submitted
        self.started: float | None = None
        self.ended = False  # its sink was called, or is about to be
        self.waiting: dict[Key, Work] = {}  # its queued items, oldest first
        self.backlog: dict[Key, Work] = {}  # those of them that are not in the window
        self.entered_tokens = 0  # let into the window
        self.served_tokens = 0  # taken out of it
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
        self._backlog: OrderedDict[Key, Work] = OrderedDict()  # oldest first
        self._fresh: dict[Request, None] = {}  # requests with a backlog, oldest first: none of their items has entered
        self._entered: dict[Request, None] = {}  # … and some have
        self._window: OrderedDict[Key, Work] = OrderedDict()  # in the order they entered
        self._keys: list[Key] = []  # of the window, ascending: shortest first
        self._lengths: list[int] = []  # their lengths, for `gather`
        self._window_tokens = 0
        self._by_content: dict[Encoded, Work] = {}  # queued and running
        self._deadlines: list[tuple[float, int, Request]] = []  # a heap
        self._ties = count()  # the heap never compares requests
        self._number = 0
        self._oldest_enters = True
        self._oldest_is_next = True

    def __len__(self) -> int:
        return len(self._backlog) + len(self._window)

    def fresh(self, items: Sequence[Encoded]) -> tuple[int, int]:
        """How many of `items` are neither here nor equal to one before them, and their tokens."""
        new = {item for item in items if item not in self._by_content}
        return len(new), sum(map(len, new))

    def add(self, request: Request, index: int, encoded: Encoded) -> Work | None:
        """Queue one item of `request`; the work it joined instead, if an equal one is here."""
        there = self._by_content.get(encoded)
        if there is not None:
            there.claims.append((request, index))
            if there.key in self._backlog or there.key in self._window:
                self._wait(request, there)
            return there
        work = Work(encoded, (len(encoded), self._number))
        self._number += 1
        work.claims.append((request, index))
        self._backlog[work.key] = self._by_content[encoded] = work
        self._wait(request, work)
        self.tokens += len(encoded)
        return None

    def take(self, *, items: int, tokens: int, padding_tokens: float, window_tokens: int) -> list[Work]:
        """Take out the next batch; something must be queued. See `gather` for the first three arguments.

        Every second item that enters the window is the oldest, the others come from the request that has had the least
        let in; every second batch is built around the item that entered first, the others around the first of the
        request that has been served least. So an item with k older ones is taken within 4 k + 4 batches, whatever its
        length, and a request of one item does not wait behind one of a thousand.
        """
        while self._backlog and self._window_tokens < max(window_tokens, 1):
            self._enter(self._next_to_enter())
        anchor = bisect_left(self._keys, self._next_anchor().key)
        start, stop = gather(self._lengths, anchor, items=items, tokens=tokens, padding_tokens=padding_tokens)
        batch = [self._window[key] for key in self._keys[start:stop]]
        for work in batch:
            self._remove(work)
            for request, _ in work.claims:
                request.served_tokens += len(work.encoded)
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
                self._remove(work)
                del self._by_content[work.encoded]
        return len(waiting)

    def expired(self, now: float) -> list[Request]:
        """Take out the requests that are not worth waiting for any more."""
        late = []
        while self._deadlines and self._deadlines[0][0] <= now:
            request = heapq.heappop(self._deadlines)[2]
            if request.waiting and not request.ended:
                self.drop(request)
                late.append(request)
        return late

    def _wait(self, request: Request, work: Work) -> None:
        if not request.waiting and request.give_up is not None:
            heapq.heappush(self._deadlines, (request.give_up, next(self._ties), request))
            if len(self._deadlines) > KEPT_DEADLINES + 2 * len(self):
                # Mostly of requests that were answered in time: let go of them.
                self._deadlines = [entry for entry in self._deadlines if entry[2].waiting]
                heapq.heapify(self._deadlines)
        request.waiting[work.key] = work
        if work.key in self._backlog:
            request.backlog[work.key] = work
            if request not in self._entered:
                self._fresh[request] = None

    def _next_to_enter(self) -> Work:
        oldest = self._oldest_enters
        self._oldest_enters = not oldest
        if oldest:
            return next(iter(self._backlog.values()))
        request = next(iter(self._fresh), None) or min(self._entered, key=lambda each: each.entered_tokens)
        return next(iter(request.backlog.values()))

    def _enter(self, work: Work) -> None:
        """From the backlog into the window."""
        del self._backlog[work.key]
        for request, _ in work.claims:
            if request.backlog.pop(work.key, None) is None:
                continue  # it claims this work twice
            request.entered_tokens += len(work.encoded)
            self._fresh.pop(request, None)
            self._entered[request] = None
            if not request.backlog:
                del self._entered[request]
        position = bisect_left(self._keys, work.key)
        self._keys.insert(position, work.key)
        self._lengths.insert(position, len(work.encoded))
        self._window[work.key] = work
        self._window_tokens += len(work.encoded)

    def _next_anchor(self) -> Work:
        first = self._oldest_is_next
        self._oldest_is_next = not first
        if first:
            return next(iter(self._window.values()))
        return min(self._window.values(), key=lambda work: work.claims[0][0].served_tokens)

    def _remove(self, work: Work) -> None:
        """Out of the backlog or the window."""
        self.tokens -= len(work.encoded)
        if work.key in self._window:
            del self._window[work.key]
            position = bisect_left(self._keys, work.key)
            del self._keys[position], self._lengths[position]
            self._window_tokens -= len(work.encoded)
        else:
            del self._backlog[work.key]
        for request, _ in work.claims:
            self._leave(request, work)

    def _leave(self, request: Request, work: Work) -> None:
        # A request may claim a work twice, when it asks for the same item twice.
        request.waiting.pop(work.key, None)
        request.backlog.pop(work.key, None)
        if not request.backlog:
            self._fresh.pop(request, None)
            self._entered.pop(request, None)
