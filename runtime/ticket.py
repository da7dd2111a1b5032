"""A submitted prompt and the sequences that are generated from it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from runtime.contract import Event, Finish, Sampling
from runtime.errors import DeadlineExceeded
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


class Submission(ABC):
    """A submitted prompt, whichever engine has it: what its caller may ask of it and what it takes of the engine."""

    def __init__(self, prompt: Sequence[int], sampling: Sampling, sink: Sink, deadline: float | None) -> None:
        self.prompt = list(prompt)
        self.sampling = sampling
        self.sink = sink
        self.deadline = deadline
        self.cancelled = False
        self.cached = 0  # tokens of the prompt that were found in the cache
        self.generated = 0
        self.submitted = time.monotonic()
        self.admitted = self.first_token = 0.0

    @property
    @abstractmethod
    def unfinished(self) -> int:
        """Sequences that have not ended."""

    @property
    def slots(self) -> int:
        """Slots that this request needs at once; a prompt that is only scored needs one."""
        return self.unfinished if self.sampling.max_tokens else 1

    @property
    def reserved(self) -> int:
        """Cache tokens this request may come to need."""
        return self.slots * (len(self.prompt) + self.sampling.max_tokens)

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

    def late(self) -> DeadlineExceeded:
        """What to say when the deadline has passed."""
        when = f"after {self.generated} tokens" if self.generated else f"while it was {self.stage}"
        return DeadlineExceeded(f"The deadline passed {when}; allow more time or fewer tokens.")

    def finish(self, index: int, reason: str, text: str, tokens: int) -> Finish:
        """The end, now, of sequence `index`: its last `text`, and the `tokens` that it has."""
        return Finish(
            reason=reason,
            text=text,
            prompt_tokens=len(self.prompt),
            completion_tokens=tokens,
            queue_s=self.admitted - self.submitted,
            prefill_s=self.first_token - self.admitted,
            decode_s=time.monotonic() - self.first_token,
            index=index,
            cached_tokens=self.cached,
        )


class Ticket(Submission):
    """A submitted request of the engine whose steps are ours. `cancel` frees its slots before the next one."""

    def __init__(self, prompt: Sequence[int], sampling: Sampling, sink: Sink, deadline: float | None) -> None:
        super().__init__(prompt, sampling, sink, deadline)
        self.continuations: list[Continuation] = []  # those that have not ended

    @property
    def unfinished(self) -> int:
        """Sequences that have not ended."""
        return len(self.continuations)

    @property
    def left(self) -> int:
        """Tokens this request may still generate."""
        return sum(self.sampling.max_tokens - each.sampler.count for each in list(self.continuations))
