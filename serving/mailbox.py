"""The way back from engine threads to the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from runtime.contract import JobResult
from runtime.errors import SluiceError

Answer = asyncio.Future[JobResult]


class Mailbox:
    """Ends futures of one loop from other threads, all of a batch with one wake-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._letters: deque[tuple[Answer, JobResult | SluiceError]] = deque()
        self._called = False

    def post(self, answer: Answer, outcome: JobResult | SluiceError) -> None:
        """From any thread: end `answer`, unless its loop has gone."""
        self._letters.append((answer, outcome))
        if not self._called and not self.loop.is_closed():
            self._called = True
            self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        # In this order: a letter posted from now on calls again, one posted before is taken below.
        self._called = False
        while self._letters:
            answer, outcome = self._letters.popleft()
            if answer.done():
                continue  # whoever waited for it was cancelled
            if isinstance(outcome, SluiceError):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)


class Sleeper(Protocol):
    """Somebody on the loop who waits for events."""

    def wake(self) -> None:
        """Something may be there."""
        ...


class Bell:
    """Wakes sleepers of one loop from other threads, all of an engine's step with one call into the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._rung: deque[Sleeper] = deque()
        self._called = False

    def ring(self, sleeper: Sleeper) -> None:
        """From any thread: wake `sleeper`, unless its loop has gone."""
        self._rung.append(sleeper)
        if not self._called and not self.loop.is_closed():
            self._called = True
            self.loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._called = False  # in this order, as above
        while self._rung:
            self._rung.popleft().wake()
