"""The generation engine: prompts in, streams of tokens out, with continuous batching over a slot cache.

Callers submit from any thread; one thread of the engine's own runs steps (`runtime/decoder.py`) for as long as there is
work. This module decides who is let in, who waits, and who has to leave. How logits are computed is the backend's
affair, how events travel to a client is the sink's.

What a request gets depends on its prompt, its settings and its seed, never on its neighbours, on what is cached, or on
the chunks its prompt was computed in: the backend's rows do not depend on each other (`GenerationBackend`), and only
what is computed alike is reused (`runtime/slots.py`).
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Sequence

from tokenizers import Tokenizer

from runtime.contract import (
    Constrain,
    Constraint,
    Event,
    Finish,
    GenerationBackend,
    Limits,
    Load,
    Observer,
    Sampling,
    Token,
)
from runtime.decoder import Decoder
from runtime.errors import Cancelled, InvalidInput, NotReady, SluiceError
from runtime.intake import Intake
from runtime.likelihood import Dictation
from runtime.manifest import CausalShape, Manifest
from runtime.sampling import Sampler
from runtime.text import TokenPrinter
from runtime.ticket import Continuation, Sink, Ticket

WARM_UP_TOKENS = (16, 96)  # of the prompts that the cost of a prefill is first measured with


class GenerationEngine(Intake):
    """Generates with one artifact. Thread-safe. `slots`: sequences that run at once, each of up to `context` tokens,
    prompt and text together. `constrain` makes constraints of schemas; without it a schema is refused."""

    def __init__(
        self,
        manifest: Manifest,
        shape: CausalShape,
        tokenizer: Tokenizer,
        backend: GenerationBackend,
        *,
        limits: Limits | None = None,
        observer: Observer | None = None,
        constrain: Constrain | None = None,
    ) -> None:
        super().__init__(
            manifest,
            shape,
            tokenizer,
            slots=backend.slots,
            context=backend.context,
            limits=limits,
            observer=observer,
        )
        self._constrain = constrain
        self._changed = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._decoder = Decoder(backend, shape.eos_token_ids, self._observer)
        self._closing = False
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------ callers' side

    def submit(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        sink: Sink,
        *,
        n: int = 1,
        deadline: float | None = None,
    ) -> Ticket:
        """Queue a prompt for `n` sequences, which share its prefill and need a slot each at the same time.

        Events go to `sink` from the engine's thread and end with the nth Finish, or with one SluiceError.
        Raises InvalidInput (setting, token id, schema), TooManyTokens, Overloaded, NotReady; never waits.
        """
        self._check(prompt, sampling, n)
        ticket = Ticket(prompt, sampling, sink, deadline)
        constraints = [self._constraint(sampling) for _ in range(n)]
        ticket.continuations = [self._continuation(ticket, index, each) for index, each in enumerate(constraints)]
        return self._queue(ticket)

    def text_log_probs(self, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Natural log p(text[i] | prompt, text[:i]) for each prompt and its text, which may end with an end token;
        blocking. Token by token, as texts are generated, `slots` at a time. Raises what `submit` raises."""
        found: list[list[float]] = []
        for start in range(0, len(prompts), self.slots):
            part = slice(start, start + self.slots)
            told = [queue.SimpleQueue[Event]() for _ in prompts[part]]
            for prompt, text, sink in zip(prompts[part], texts[part], told, strict=True):
                sampling = Sampling(max_tokens=len(text), temperature=0, logprobs=0)
                self._check(prompt, sampling, 1)
                ticket = Ticket(prompt, sampling, sink.put, None)
                ticket.continuations = [self._continuation(ticket, 0, Dictation(text))]
                self._queue(ticket)
            found += [_log_probs_told(events) for events in told]
        return found

    def _queue(self, ticket: Ticket) -> Ticket:
        """Raises Overloaded, NotReady."""
        with self._changed:
            if self._closing:
                raise NotReady("The server is draining; retry on another one.")
            self._make_room(ticket)
            self._waiting.append(ticket)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
                self._thread.start()
            self._changed.notify()
        return ticket

    def load(self) -> Load:
        """Sequences and reserved cache tokens in flight."""
        with self._changed:
            waiting = list(self._waiting)
        running = sum(ticket.slots for ticket in self._decoder.tickets)
        return self._load(waiting, running, self._decoder.tokens)

    def warm_up(self) -> None:
        """Run every batch width and prompts of two lengths once, so that the first request pays for nothing and the
        cost of a step and of a prompt is known. Raises BackendFailed."""
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        count = min(self.slots, self.limits.max_items)
        for number in range(count):
            # None begins like another one, so that each is computed.
            length = min(WARM_UP_TOKENS[number % len(WARM_UP_TOKENS)], max(self.context // 2, 1))
            prompt = [(-1 - number - place) % self._shape.vocab_size for place in range(length)]
            sampling = Sampling(max_tokens=min(4, self.room(length)), temperature=0, ignore_eos=True)
            self.submit(prompt, sampling, events.put)
        while count:
            event = events.get()
            if isinstance(event, SluiceError):
                raise event
            count -= isinstance(event, Finish)

    def close(self) -> None:
        """Refuse new work, finish what runs and waits, end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread:
            self._thread.join()

    def _constraint(self, sampling: Sampling) -> Constraint | None:
        """Raises InvalidInput."""
        if sampling.schema is None:
            return None
        if self._constrain is None:
            raise InvalidInput(
                "This engine has no grammars, so a schema (response_format) is not supported.", param="schema"
            )
        return self._constrain(sampling.schema)

    def _continuation(self, ticket: Ticket, index: int, constraint: Constraint | None) -> Continuation:
        sampling, shape = ticket.sampling, self._shape
        # A text goes on with its prompt, unless that is a source.
        before = shape.start_token_ids or ticket.prompt
        sampler = Sampler(sampling, before, shape.vocab_size, shape.eos_token_ids, index=index, constraint=constraint)
        printer = TokenPrinter(self.tokenizer, before, sampling.stop, min_tokens=sampling.min_tokens)
        return Continuation(ticket, index, sampler, printer)

    def _make_room(self, ticket: Ticket) -> None:
        """Raises Overloaded."""
        running = self._decoder.tickets
        if sum(each.slots for each in [*running, *self._waiting]) + ticket.slots <= self.slots:
            return
        steps = sum(each.left for each in [*running, *self._waiting]) / self.slots
        prompts = sum(len(each.prompt) for each in self._waiting)
        self._admit(ticket, self._waiting, steps * self._decoder.step_s + prompts * self._decoder.cost.token_s)

    # ------------------------------------------------------------ the engine's thread

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._decoder.tickets:
                    if self._closing:
                        return
                    self._changed.wait()
            self._sweep()
            self._decoder.step(self._take)

    def _take(self, free: int) -> Ticket | None:
        """The next request, if so many slots are enough for it; in the order of arrival."""
        with self._changed:
            return self._waiting.popleft() if self._waiting and self._waiting[0].slots <= free else None

    def _sweep(self) -> None:
        """Let go of requests whose caller left or whose deadline passed, waiting or running."""
        now = time.monotonic()
        with self._changed:
            in_flight = [*self._waiting, *self._decoder.tickets]
        for ticket in in_flight:
            if ticket.cancelled:
                self._note("cancelled", 1, stage=ticket.stage)
                self._end(ticket, Cancelled("The caller left."))
            elif ticket.deadline is not None and now > ticket.deadline:
                self._note("cancelled", 1, stage="expired")
                self._end(ticket, ticket.late())

    def _end(self, ticket: Ticket, error: SluiceError) -> None:
        with self._changed:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
        self._decoder.abandon(ticket, error)


def _log_probs_told(events: queue.SimpleQueue[Event]) -> list[float]:
    """Of the tokens of a stream of one sequence, up to its end. Raises the error that ends it."""
    found: list[float] = []
    while not isinstance(event := events.get(), Finish):
        if isinstance(event, SluiceError):
            raise event
        if isinstance(event, Token) and event.logprob is not None:
            found.append(event.logprob)
    return found
