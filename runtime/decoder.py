"""One step of continuous batching: prefill some, decode all that run, tell whom it concerns.

A request joins at any step and leaves at its last token (iteration-level scheduling: Yu et al., Orca, OSDI 2022); its
prompt is computed in chunks between the steps of those that run (chunked prefill: Agrawal et al., Sarathi, 2023).
All of it happens on the engine's thread; who waits, and for how long, is the engine's affair.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from runtime.contract import F32, Event, GenerationBackend, Observer, Token
from runtime.cost import CostModel
from runtime.errors import BackendFailed, SluiceError
from runtime.prefill import LEAST_CHUNK, STALL_STEPS, Prefill, chunk_tokens
from runtime.scheduler import safely
from runtime.slots import Slots
from runtime.ticket import Continuation, Ticket

logger = logging.getLogger(__name__)
# Weight of the newest step in the moving estimate of what a step takes.
STEP_WEIGHT = 0.2
Take = Callable[[int], Ticket | None]  # free slots -> the next request, if it can do with them


class Decoder:
    """See the module. `running`: the sequences in slots 0..n-1; `prefilling`: the prompt that comes next, if any."""

    def __init__(self, backend: GenerationBackend, eos: Sequence[int], observer: Observer) -> None:
        self.running: list[Continuation] = []
        self.prefilling: Prefill | None = None
        self.cost = CostModel()  # of a prefill call
        self.step_s = 0.0  # of a decode step, lately
        self._backend = backend
        self._eos = frozenset(eos)
        self._note = partial(safely, observer.observe)
        self._slots = Slots(backend)
        self._outbox: list[tuple[Ticket, Event]] = []

    @property
    def tickets(self) -> list[Ticket]:
        """The requests that have a slot. From any thread."""
        prefill = self.prefilling  # looked at once: a step may end it meanwhile
        return list(dict.fromkeys([*([prefill.ticket] if prefill else []), *(each.ticket for each in self.running)]))

    @property
    def tokens(self) -> int:
        """Tokens in the cache that belong to requests in flight. From any thread."""
        prefill = self.prefilling
        return int(self._slots.lengths().sum()) + (prefill.done if prefill else 0)

    def step(self, take: Take) -> None:
        """Take in what fits, compute, tell. `take` is asked for further requests as long as there is room and time."""
        self._prefill(take)
        self.deliver()  # before the decode step: a first token does not wait for it
        if self.running:
            self._decode()
            self.deliver()

    def abandon(self, ticket: Ticket, error: SluiceError) -> None:
        """End all that is left of a request, waiting or running, with `error` as its last event."""
        if self.prefilling and self.prefilling.ticket is ticket:
            self.prefilling = None
        for each in [each for each in self.running if each.ticket is ticket]:
            self._release(each)
        ticket.continuations.clear()
        self._outbox.append((ticket, error))

    def deliver(self) -> None:
        """Hand out what has happened, all at once: receivers on other threads wake up beside the next step."""
        outbox, self._outbox = self._outbox, []
        for ticket, event in outbox:
            try:
                ticket.sink(event)
            except Exception:
                # The receiver is gone (its event loop has closed, say): that is a caller who left.
                logger.warning("a sink raised; its request is cancelled", exc_info=True)
                ticket.cancelled = True

    # ------------------------------------------------------------ prompts

    def _prefill(self, take: Take) -> None:
        """Compute prompts for as long as those that run can wait; at least one chunk, if there is any."""
        paced = bool(self.running)
        left_s = STALL_STEPS * self.step_s if paced else float("inf")
        while True:
            if self.prefilling is None and not self._begin(take):
                return
            assert self.prefilling is not None
            left_s -= self._advance(self.prefilling, left_s)
            if not paced or left_s < self.cost.fixed_s + LEAST_CHUNK * self.cost.token_s:
                return

    def _begin(self, take: Take) -> bool:
        ticket = take(self._slots.free)
        if ticket is None:
            return False
        ticket.admitted = time.monotonic()
        self._note("queue_s", ticket.admitted - ticket.submitted)
        reuse = ticket.sampling.prompt_logprobs is None and not self._backend.whole_prompts
        slot, ticket.cached = self._slots.claim(ticket.prompt, reuse=reuse)
        self.prefilling = Prefill(ticket, slot, ticket.cached)
        return True

    def _advance(self, prefill: Prefill, allowed_s: float) -> float:
        """Compute one chunk; seconds that it took."""
        size = prefill.left if self._backend.whole_prompts else chunk_tokens(prefill.left, self.cost, allowed_s)
        ids = prefill.ticket.prompt[prefill.done : prefill.done + size]
        begun = time.monotonic()
        try:
            logits = self._backend.prefill(prefill.slot, ids, prefill.done, all_logits=prefill.scored)
            prefill.advance(logits, size)
        except Exception as error:
            logger.exception("prefill of %d tokens failed", size)
            self._slots.forget(prefill.slot)
            self.abandon(prefill.ticket, _failed("on this prompt", error))
            return time.monotonic() - begun
        took_s = time.monotonic() - begun
        self.cost.observe(size, took_s)
        self._slots.extend(prefill.slot, ids)
        if not prefill.left:
            self.prefilling = None
            self._start(prefill, logits[-1])
        return took_s

    def _start(self, prefill: Prefill, logits: F32) -> None:
        """A prompt is in the cache: its sequences begin to run, each with a first token."""
        ticket = prefill.ticket
        ticket.first_token = time.monotonic()
        self._note("prompt_tokens", len(ticket.prompt))
        self._note("prefix_tokens", ticket.cached)
        self._note("prefill_tokens", len(ticket.prompt) - ticket.cached)
        if prefill.scored:
            self._outbox.append((ticket, prefill.scores()))
        if not ticket.sampling.max_tokens:
            for each in list(ticket.continuations):
                self._finish(each, "length")
            return
        self._note("ttft_s", ticket.first_token - ticket.submitted)
        self._slots.run(prefill.slot)
        first = len(self.running)
        for number, each in enumerate(ticket.continuations):
            if number:
                self._slots.fork(first)
            each.last_at = ticket.first_token
            self.running.append(each)
        self._emit(list(ticket.continuations), [logits] * len(ticket.continuations))

    # ------------------------------------------------------------ tokens

    def _decode(self) -> None:
        batch = list(self.running)
        begun = time.monotonic()
        try:
            logits = self._backend.decode(np.asarray([each.last for each in batch], np.int64), self._slots.lengths())
        except Exception as error:
            logger.exception("decode of %d sequences failed", len(batch))
            for ticket in dict.fromkeys(each.ticket for each in batch):
                self.abandon(ticket, _failed("while generating", error))
            return
        now = time.monotonic()
        took_s = now - begun
        self.step_s += STEP_WEIGHT * (took_s - self.step_s) if self.step_s else took_s
        self._note("batch_items", len(batch))
        self._note("compute_s", took_s)
        self._slots.grow()  # all of them before any token: a sequence that ends changes places with another one
        for each in batch:
            self._note("inter_token_s", now - each.last_at)
            each.last_at = now
        self._emit(batch, logits)

    def _emit(self, batch: Sequence[Continuation], logits: Sequence[F32] | F32) -> None:
        """Draw the next token of each sequence; those that end with it leave."""
        told = len(self._outbox)
        for each, row in zip(batch, logits, strict=True):
            if each.ticket.cancelled or each not in each.ticket.continuations:
                continue  # ended by another of its request's sequences
            try:
                self._draw(each, row)
            except SluiceError as error:  # a grammar that outgrew its limits
                self.abandon(each.ticket, error)
            except Exception as error:
                # Whatever one row holds is that request's own affair.
                logger.exception("no token could be drawn")
                self.abandon(each.ticket, _failed("while a token was drawn", error))
        self._note("generated_tokens", sum(isinstance(event, Token) for _, event in self._outbox[told:]))

    def _draw(self, each: Continuation, row: F32) -> None:
        sampling, sampler, printer = each.ticket.sampling, each.sampler, each.printer
        drawn = sampler.draw(row)
        if drawn.token in self._eos and not sampling.ignore_eos:
            if drawn.logprob is not None:  # whoever wants to know how likely the text is needs its end as well
                self._outbox.append((each.ticket, Token(drawn.token, "", each.index, drawn.logprob, drawn.likeliest)))
            return self._finish(each, "stop")
        sampler.accept(drawn.token)
        each.last = drawn.token
        each.ticket.generated += 1
        text = printer.push(drawn.token)
        self._outbox.append((each.ticket, Token(drawn.token, text, each.index, drawn.logprob, drawn.likeliest)))
        if printer.stopped or sampler.finished:
            self._finish(each, "stop")
        elif sampler.count >= sampling.max_tokens:
            self._finish(each, "length")

    # ------------------------------------------------------------ ends

    def _finish(self, each: Continuation, reason: str) -> None:
        ticket = each.ticket
        text = each.printer.flush()
        reason = "stop" if each.printer.stopped else reason
        self._note("finished", 1, reason=reason)
        self._outbox.append((ticket, ticket.finish(each.index, reason, text, each.sampler.count)))
        ticket.continuations.remove(each)
        if each in self.running:
            self._release(each)

    def _release(self, each: Continuation) -> None:
        """Free a sequence's slot; the last one moves into the gap."""
        slot = self.running.index(each)
        self._slots.release(slot)
        last = self.running.pop()
        if last is not each:
            self.running[slot] = last


def _failed(when: str, error: Exception) -> BackendFailed:
    return BackendFailed(f"The model failed {when} ({type(error).__name__}).")
