"""The generation engine: prompts in, streams of tokens out, with continuous batching over a slot cache.

One thread runs `admit -> prefill one -> decode all -> emit`. A request joins at the next step and leaves at its last
token (iteration-level scheduling, Yu et al., Orca, OSDI 2022). The engine sees logits and slots; how they are computed
is the backend's affair, how events travel to a client is the sink's.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from tokenizers import Tokenizer

from runtime import sampling as sampler
from runtime.contract import Event, Finish, GenerationBackend, Limits, Load, Observer, Piece, Sampling, Silent, Token
from runtime.errors import (
    BackendFailed,
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    NotReady,
    Overloaded,
    SluiceError,
    TooManyTokens,
)
from runtime.manifest import CausalShape, Manifest
from runtime.text import TokenPrinter, check_text

logger = logging.getLogger(__name__)
# Rows of logits computed at once when a text is scored: bounds memory at chunk x vocabulary.
SCORING_CHUNK = 256
RATE_WEIGHT = 0.05


class Ticket:
    """A submitted request. `cancel` frees its slot before the next step."""

    def __init__(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        sink: Callable[[Event], None],
        printer: TokenPrinter,
        deadline: float | None,
    ) -> None:
        self.prompt = list(prompt)
        self.sampling = sampling
        self.sink = sink
        self.deadline = deadline
        self.cancelled = False
        self.printer = printer
        # A sequence's randomness is its own, so a seeded sample is the same alone and in company.
        self.random = np.random.default_rng(sampling.seed)
        self.length = 0  # tokens in the cache
        self.last = -1  # the newest token, not yet in the cache
        self.generated = 0
        self.submitted = time.monotonic()
        self.admitted = self.first_token = self.previous_token = 0.0

    @property
    def reserved(self) -> int:
        """Cache tokens this request may come to need."""
        return len(self.prompt) + self.sampling.max_tokens

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


class GenerationEngine:
    """Generates with one artifact. Thread-safe but for `log_probs`, which waits for the running step."""

    def __init__(
        self,
        manifest: Manifest,
        shape: CausalShape,
        tokenizer: Tokenizer,
        backend: GenerationBackend,
        *,
        limits: Limits | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.manifest = manifest
        self.limits = limits or Limits(max_items=64, max_tokens=65_536)
        self.context = backend.context
        # The last slot is scratch for `log_probs`; sequences run in the others.
        self.slots = backend.slots - 1
        self._shape = shape
        self.tokenizer = tokenizer
        self._backend = backend
        self._observer = observer or Silent()
        self._changed = threading.Condition()
        self._stepping = threading.Lock()
        self._waiting: deque[Ticket] = deque()
        self._running: list[Ticket] = []  # index = slot
        self._tokens_per_s = 0.0
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
        sink: Callable[[Event], None],
        *,
        deadline: float | None = None,
    ) -> Ticket:
        """Queue a prompt; events go to `sink` from the engine's thread and end with one Finish or SluiceError.

        Raises InvalidInput (setting, token id), TooManyTokens, Overloaded, NotReady; never waits.
        """
        sampler.check(sampling)
        self._check_prompt(prompt, sampling.max_tokens)
        ticket = Ticket(prompt, sampling, sink, TokenPrinter(self.tokenizer, prompt, sampling.stop), deadline)
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
        """Natural log p(ids[i] | ids[:i]) for i = 1 … len - 1. Raises TooManyTokens past the context."""
        self._check_prompt(ids, 0)
        found: list[float] = []
        with self._stepping:
            for start in range(0, len(ids) - 1, SCORING_CHUNK):
                chunk = list(ids[start : start + SCORING_CHUNK])
                logits = self._backend.prefill(self.slots, chunk, start, all_logits=True)  # (T, V)
                targets = ids[start + 1 : start + 1 + len(chunk)]
                rows = logits[: len(targets)].astype(np.float64)
                top = rows.max(axis=1)
                total = top + np.log(np.exp(rows - top[:, None]).sum(axis=1))
                found += (rows[np.arange(len(targets)), targets] - total).tolist()
        return found

    def load(self) -> Load:
        """Sequences and reserved cache tokens in flight."""
        with self._changed:
            return Load(
                queued_items=len(self._waiting),
                queued_tokens=sum(ticket.reserved for ticket in self._waiting),
                running_items=len(self._running),
                running_tokens=sum(ticket.length for ticket in self._running),
                saturation=round((len(self._waiting) + len(self._running)) / self.slots, 4),
            )

    def warm_up(self) -> None:
        """Run every batch width once, so that the first request pays for nothing and the rate is known.

        Raises BackendFailed.
        """
        start = self.encode("")[:1] if self._shape.bos_token_id is not None or self._shape.eos_token_ids else [0]
        done: queue.SimpleQueue[Event] = queue.SimpleQueue()
        count = min(self.slots, self.limits.max_items)
        for _ in range(count):
            self.submit(start, Sampling(max_tokens=min(4, self.context - 1), temperature=0), done.put)
        while count:
            event = done.get()
            count -= not isinstance(event, Token)
            if isinstance(event, SluiceError):
                raise event

    def close(self) -> None:
        """Refuse new work, finish what runs and waits, end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread:
            self._thread.join()

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
        tokens = sum(each.reserved for each in self._waiting)
        ahead = tokens + sum(each.reserved - each.length for each in self._running)
        free = self.slots - len(self._running) - len(self._waiting)
        wait_s = 0.0 if free > 0 or not self._tokens_per_s else ahead / self._tokens_per_s / self.slots
        problem = None
        if free <= 0 and len(self._waiting) >= self.limits.max_items:
            problem = f"{len(self._waiting)} requests wait, {self.limits.max_items} may"
        elif free <= 0 and tokens + ticket.reserved > self.limits.max_tokens:
            problem = (
                f"{tokens} tokens wait and this request may need {ticket.reserved}; {self.limits.max_tokens} may wait"
            )
        elif ticket.deadline is not None and time.monotonic() + wait_s > ticket.deadline:
            problem = f"a slot is expected in {wait_s:.2f} s, later than this request's deadline"
        if problem:
            self._observer.observe("shed", 1)
            raise Overloaded(f"Overloaded: {problem}. Retry later.", retry_after_s=wait_s)

    # ------------------------------------------------------------ the engine's thread

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._running:
                    if self._closing:
                        return
                    self._changed.wait()
            self._sweep()
            with self._stepping:
                # One prefill a step: newcomers cannot starve the streams that run.
                if self._waiting and len(self._running) < self.slots:
                    self._prefill(self._waiting[0])
                if self._running:
                    self._decode()

    def _sweep(self) -> None:
        """Let go of requests whose caller left or whose deadline passed, waiting or running."""
        now = time.monotonic()
        with self._changed:
            in_flight = [*self._waiting, *self._running]
        for ticket in in_flight:
            if ticket.cancelled:
                self._observer.observe("cancelled", 1, stage=ticket.stage)
                self._leave(ticket, Cancelled("The caller left."))
            elif ticket.deadline is not None and now > ticket.deadline:
                self._observer.observe("cancelled", 1, stage="expired")
                late = f"after {ticket.generated} tokens" if ticket.generated else f"while it was {ticket.stage}"
                self._leave(ticket, DeadlineExceeded(f"The deadline passed {late}; allow more time or fewer tokens."))

    def _prefill(self, ticket: Ticket) -> None:
        ticket.admitted = time.monotonic()
        with self._changed:
            self._waiting.popleft()
            self._running.append(ticket)
        self._observer.observe("queue_s", ticket.admitted - ticket.submitted)
        try:
            logits = self._backend.prefill(len(self._running) - 1, ticket.prompt)[0]
        except Exception as error:
            logger.exception("prefill of %d tokens failed", len(ticket.prompt))
            self._leave(ticket, BackendFailed(f"The model failed on this prompt ({type(error).__name__})."))
            return
        ticket.length = len(ticket.prompt)
        ticket.first_token = ticket.previous_token = time.monotonic()
        self._observer.observe("prompt_tokens", len(ticket.prompt))
        self._observer.observe("ttft_s", ticket.first_token - ticket.submitted)
        self._emit(ticket, logits)

    def _decode(self) -> None:
        batch = list(self._running)
        begun = time.monotonic()
        try:
            logits = self._backend.decode(
                np.asarray([ticket.last for ticket in batch], np.int64),
                np.asarray([ticket.length for ticket in batch], np.int64),
            )
        except Exception as error:
            logger.exception("decode of %d sequences failed", len(batch))
            for ticket in batch:
                self._leave(ticket, BackendFailed(f"The model failed while generating ({type(error).__name__})."))
            return
        now = time.monotonic()
        rate = 1 / max(now - begun, 1e-6)  # of one sequence
        self._tokens_per_s += RATE_WEIGHT * (rate - self._tokens_per_s) if self._tokens_per_s else rate
        self._observer.observe("batch_items", len(batch))
        self._observer.observe("compute_s", now - begun)
        # All lengths before any token: a sequence that ends moves another one, which must be known at its full length.
        for ticket in batch:
            ticket.length += 1
        for ticket, row in zip(batch, logits, strict=True):
            self._observer.observe("inter_token_s", now - ticket.previous_token)
            ticket.previous_token = now
            self._emit(ticket, row)

    def _emit(self, ticket: Ticket, logits: np.ndarray) -> None:
        """Draw the next token of one sequence and tell its sink; ends the sequence where that token does."""
        token = sampler.draw(logits, ticket.sampling, ticket.random)
        if token in self._shape.eos_token_ids:
            return self._finish(ticket, "stop")
        ticket.last = token
        ticket.generated += 1
        self._observer.observe("generated_tokens", 1)
        self._tell(ticket, Token(token, ticket.printer.push(token)))
        if ticket.printer.stopped:
            self._finish(ticket, "stop")
        elif ticket.generated >= ticket.sampling.max_tokens:
            self._finish(ticket, "length")

    def _finish(self, ticket: Ticket, reason: str) -> None:
        now = time.monotonic()
        text = ticket.printer.flush()
        if ticket.printer.stopped:
            reason = "stop"
        self._observer.observe("finished", 1, reason=reason)
        self._leave(
            ticket,
            Finish(
                reason=reason,
                text=text,
                prompt_tokens=len(ticket.prompt),
                completion_tokens=ticket.generated,
                queue_s=ticket.admitted - ticket.submitted,
                prefill_s=ticket.first_token - ticket.admitted,
                decode_s=now - ticket.first_token,
            ),
        )

    def _leave(self, ticket: Ticket, last: Event) -> None:
        """Take a request out and close the gap: the sequence of the highest slot moves into the freed one."""
        with self._changed:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            elif ticket in self._running:
                slot = self._running.index(ticket)
                mover = self._running.pop()
                if mover is not ticket:
                    self._backend.move(len(self._running), slot, mover.length)
                    self._running[slot] = mover
        self._tell(ticket, last)

    def _tell(self, ticket: Ticket, event: Event) -> None:
        try:
            ticket.sink(event)
        except Exception:
            # The receiver is gone (its event loop has closed, say): that is a caller who left.
            logger.warning("a sink raised; its request is cancelled", exc_info=True)
            ticket.cancelled = True
