"""A submitted prompt and the sequences that are generated from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from runtime.contract import Event, Sampling
from runtime.sampling import Sampler
from runtime.text import TokenPrinter

Sink = Callable[[Event], None]


class Continuation:
    """One of a ticket's sequences: how its tokens are drawn, how they become text, how far it is."""

    def __init__(self, ticket: Ticket, index: int, sampler: Sampler, printer: TokenPrinter) -> None:
        self.ticket = ticket
        self.index = index
        self.sampler = sampler
        self.printer = printer
        self.last = -1  # the newest token, not yet in the cache
        self.last_at = 0.0


class Ticket:
    """A submitted request. `cancel` frees its slots before the next step."""

    def __init__(self, prompt: Sequence[int], sampling: Sampling, sink: Sink, deadline: float | None) -> None:
        self.prompt = list(prompt)
        self.sampling = sampling
        self.sink = sink
        self.deadline = deadline
        self.cancelled = False
        self.continuations: list[Continuation] = []  # those that have not ended
        self.cached = 0  # tokens of the prompt that were found in the cache
        self.generated = 0
        self.submitted = time.monotonic()
        self.admitted = self.first_token = 0.0

    @property
    def slots(self) -> int:
        """Slots that this request needs at once; a prompt that is only scored needs one."""
        return len(self.continuations) if self.sampling.max_tokens else 1

    @property
    def reserved(self) -> int:
        """Cache tokens this request may come to need."""
        return self.slots * (len(self.prompt) + self.sampling.max_tokens)

    @property
    def left(self) -> int:
        """Tokens this request may still generate."""
        return sum(self.sampling.max_tokens - each.sampler.count for each in list(self.continuations))

    @property
    def stage(self) -> str:
        """`queued` until it has a slot, then `running`."""
        return "running" if self.admitted else "queued"

    def times(self) -> tuple[float, float]:
        """Seconds in the queue, and since it has a slot, up to now."""
        now = time.monotonic()
        return (self.admitted - self.submitted, now - self.admitted) if self.admitted else (now - self.submitted, 0.0)

    def cancel(self) -> None:
        """The caller left. The engine notices within one step; nothing more reaches the sink but a Cancelled."""
        self.cancelled = True
