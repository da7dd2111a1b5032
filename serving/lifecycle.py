"""A worker's life: ready, draining, gone. On SIGTERM it answers 503 on /readyz, takes no new work, lets what runs
finish, and only then hands over to the HTTP server's own shutdown, which closes the connections."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from runtime.errors import NotReady

logger = logging.getLogger(__name__)
POLL_S = 0.05


class Lifecycle:
    """State and count of running requests. Everything but the signal handler runs on the event loop."""

    def __init__(self, notice_s: float, timeout_s: float) -> None:
        self.draining = False
        self.in_flight = 0
        self._notice_s = notice_s
        self._timeout_s = timeout_s
        self._drain: asyncio.Task[None] | None = None

    def check(self) -> None:
        """Raises NotReady while draining."""
        if self.draining:
            raise NotReady("The server is draining; retry on another one.")

    def drain_on_sigterm(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take SIGTERM over from the HTTP server, whose handler is called when the drain is over."""
        previous: Any = signal.getsignal(signal.SIGTERM)

        def begin(number: int, frame: FrameType | None) -> None:
            # A signal to the whole process group comes a second time from the parent process; once is enough.
            if not self.draining:
                self.draining = True
                loop.call_soon_threadsafe(self._begin, loop, lambda: previous(number, frame))

        signal.signal(signal.SIGTERM, begin)

    def _begin(self, loop: asyncio.AbstractEventLoop, shut_down: Callable[[], None]) -> None:
        self._drain = loop.create_task(self.drain(shut_down))

    async def drain(self, shut_down: Callable[[], None]) -> None:
        """Wait for the notice period and for running requests, at most the timeout, then call `shut_down`."""
        self.draining = True
        begun = time.monotonic()
        logger.info("draining: %d requests are running", self.in_flight)
        while (waited_s := time.monotonic() - begun) < max(self._notice_s, self._timeout_s):
            if waited_s >= self._notice_s and (self.in_flight == 0 or waited_s >= self._timeout_s):
                break
            await asyncio.sleep(POLL_S)
        logger.info("drained in %.1f s, %d requests are still running", time.monotonic() - begun, self.in_flight)
        shut_down()
