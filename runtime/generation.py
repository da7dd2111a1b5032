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
from collections.abc import Iterator, Sequence
from functools import partial

from tokenizers import Tokenizer

from runtime.contract import (
    Constrain,
    Event,
    Finish,
    GenerationBackend,
    Limits,
    Load,
    Observer,
    Piece,
    PromptScores,
    Sampling,
    Silent,
)
from runtime.decoder import Decoder
from runtime.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    NotReady,
    Overloaded,
    SluiceError,
    TooManyTokens,
)
from runtime.manifest import CausalShape, Manifest
from runtime.sampling import Sampler, check
from runtime.scheduler import safely
from runtime.text import TokenPrinter, check_text
from runtime.ticket import Continuation, Sink, Ticket

WARM_UP_TOKENS = (16, 96)  # of the prompts that the cost of a prefill is first measured with


class GenerationEngine:
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
        self.manifest = manifest
        self.limits = limits or Limits(max_items=64, max_tokens=65_536)
        self.context = backend.context
        self.slots = backend.slots
        self._shape = shape
        self.tokenizer = tokenizer
        self._constrain = constrain
        observer = observer or Silent()
        self._note = partial(safely, observer.observe)
        self._changed = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._decoder = Decoder(backend, shape.eos_token_ids, observer)
        self._closing = False
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------ callers' side

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt; an empty one becomes the model's begin (or end) token. Raises InvalidInput."""
        check_text(prompt, "prompt")
        # As a batch of one: only the batch functions let other threads run meanwhile.
        ids: list[int] = self.tokenizer.encode_batch_fast([prompt])[0].ids
        if ids:
            return ids
        starts = [self._shape.bos_token_id, *self._shape.eos_token_ids]
        start = next((token for token in starts if token is not None), None)
        if start is None:
            raise InvalidInput("The prompt is empty and this model has no begin token; send some text.", param="prompt")
        return [start]

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
        check(sampling, self._shape.vocab_size)
        if not 1 <= n <= self.slots:
            raise InvalidInput(
                f"n is {n}; it must be from 1 to {self.slots}, the sequences that run at once.", param="n"
            )
        self._check_prompt(prompt, sampling.max_tokens)
        ticket = Ticket(prompt, sampling, sink, deadline)
        ticket.continuations = [self._continuation(ticket, index) for index in range(n)]
        with self._changed:
            if self._closing:
                raise NotReady("The server is draining; retry on another one.")
            self._admit(ticket)
            self._waiting.append(ticket)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
                self._thread.start()
            self._changed.notify()
        return ticket

    def generate(self, prompt: str, sampling: Sampling) -> Iterator[Piece]:
        """Stream one completion, blocking. Raises what `submit` raises, and the stream's own error."""
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        ticket = self.submit(self.encode(prompt), sampling, events.put)
        try:
            while True:
                event = events.get()
                if isinstance(event, SluiceError):
                    raise event
                yield event
                if isinstance(event, Finish):
                    return
        finally:
            ticket.cancel()

    def log_probs(self, ids: Sequence[int]) -> list[float]:
        """Natural log p(ids[i] | ids[:i]) for i = 1 … len - 1, blocking. Raises what `submit` raises."""
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.submit(ids, Sampling(max_tokens=0, prompt_logprobs=0), events.put)
        scores = events.get()
        if isinstance(scores, SluiceError):
            raise scores
        assert isinstance(scores, PromptScores)
        return [value for value in scores.logprobs if value is not None]

    def load(self) -> Load:
        """Sequences and reserved cache tokens in flight."""
        with self._changed:
            waiting = list(self._waiting)
        queued = sum(ticket.slots for ticket in waiting)
        running = sum(ticket.slots for ticket in self._decoder.tickets)
        return Load(
            queued_items=queued,
            queued_tokens=sum(ticket.reserved for ticket in waiting),
            running_items=running,
            running_tokens=self._decoder.tokens,
            saturation=round((queued + running) / self.slots, 4),
        )

    def warm_up(self) -> None:
        """Run every batch width and prompts of two lengths once, so that the first request pays for nothing and the
        cost of a step and of a prompt is known. Raises BackendFailed."""
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        count = min(self.slots, self.limits.max_items)
        for number in range(count):
            # None begins like another one, so that each is computed.
            length = min(WARM_UP_TOKENS[number % len(WARM_UP_TOKENS)], max(self.context // 2, 1))
            prompt = [(-1 - number - place) % self._shape.vocab_size for place in range(length)]
            sampling = Sampling(max_tokens=min(4, self.context - length), temperature=0, ignore_eos=True)
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

    def _continuation(self, ticket: Ticket, index: int) -> Continuation:
        sampling = ticket.sampling
        constraint = None
        if sampling.schema is not None:
            if self._constrain is None:
                raise InvalidInput(
                    "This engine has no grammars, so a schema (response_format) is not supported.", param="schema"
                )
            constraint = self._constrain(sampling.schema)
        vocab_size, eos = self._shape.vocab_size, self._shape.eos_token_ids
        sampler = Sampler(sampling, ticket.prompt, vocab_size, eos, index=index, constraint=constraint)
        printer = TokenPrinter(self.tokenizer, ticket.prompt, sampling.stop, min_tokens=sampling.min_tokens)
        return Continuation(ticket, index, sampler, printer)

    def _check_prompt(self, prompt: Sequence[int], max_tokens: int) -> None:
        if not prompt:
            raise InvalidInput("The prompt has no tokens; send at least one.", param="prompt")
        if len(prompt) + max_tokens > self.context:
            raise TooManyTokens(
                f"The prompt has {len(prompt)} tokens and max_tokens is {max_tokens}; this model's context is "
                f"{self.context} tokens. Shorten the prompt or lower max_tokens.",
                param="prompt" if len(prompt) >= self.context else "max_tokens",
            )
        wrong = next((token for token in prompt if not 0 <= token < self._shape.vocab_size), None)
        if wrong is not None:
            raise InvalidInput(f"Token {wrong} is outside the vocabulary of {self._shape.vocab_size}.", param="prompt")

    def _admit(self, ticket: Ticket) -> None:
        """Raises Overloaded where the queue is full, or a slot is not to be expected before the deadline."""
        running = self._decoder.tickets
        taken = sum(each.slots for each in [*running, *self._waiting])
        if taken + ticket.slots <= self.slots:
            return
        waiting = sum(each.slots for each in self._waiting)
        tokens = sum(each.reserved for each in self._waiting)
        steps = sum(each.left for each in [*running, *self._waiting]) / self.slots
        prompts = sum(len(each.prompt) for each in self._waiting)
        wait_s = steps * self._decoder.step_s + prompts * self._decoder.cost.token_s
        problem = None
        if waiting + ticket.slots > self.limits.max_items:
            problem = f"{waiting} sequences wait and this is {ticket.slots} more; {self.limits.max_items} may wait"
        elif tokens + ticket.reserved > self.limits.max_tokens:
            problem = (
                f"{tokens} tokens wait and this request may need {ticket.reserved}; {self.limits.max_tokens} may wait"
            )
        elif ticket.deadline is not None and time.monotonic() + wait_s > ticket.deadline:
            problem = f"a slot is expected in {wait_s:.2f} s, later than this request's deadline"
        if problem:
            self._note("shed", 1)
            raise Overloaded(f"Overloaded: {problem}. Retry later.", retry_after_s=wait_s)

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
                late = f"after {ticket.generated} tokens" if ticket.generated else f"while it was {ticket.stage}"
                self._end(ticket, DeadlineExceeded(f"The deadline passed {late}; allow more time or fewer tokens."))

    def _end(self, ticket: Ticket, error: SluiceError) -> None:
        with self._changed:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
        self._decoder.abandon(ticket, error)
