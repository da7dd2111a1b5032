"""How many requests use an engine. A model that is replaced goes on for those that began with it; its engine is closed
when the last of them has been accounted for, never earlier and whatever the time."""

from __future__ import annotations

from collections.abc import Callable


class Leases:
    """The requests that use one engine. Everything happens on the event loop."""

    __slots__ = ("_then", "held")

    def __init__(self) -> None:
        self.held = 0
        self._then: Callable[[], None] | None = None

    def take(self) -> None:
        """One more request uses the engine."""
        self.held += 1

    def give_back(self) -> None:
        """That request is over."""
        self.held -= 1
        if self.held == 0 and self._then is not None:
            then, self._then = self._then, None
            then()

    def when_free(self, then: Callable[[], None]) -> None:
        """The engine is found by no new request: call `then` once, now or when the last lease is given back."""
        if self.held == 0:
            then()
        else:
            self._then = then
