"""The way of every completion and chat into a generation engine and back: prompts to token ids, a submission for each,
their events as they come; a deadline that may pass, a client that may leave."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from runtime.contract import Event, Finish, Piece, Sampling, Submitted, TextEngine, Token
from runtime.encoder import EncoderEngine
from runtime.errors import InvalidInput, LimitExceeded, SluiceError
from serving.call import Call
from serving.catalogue import Served
from serving.generation_schemas import GenerationRequest
from serving.mailbox import Bell
from serving.prompts import Prompts
from serving.room import Room
from serving.submission import INLINE_CHARACTERS

ANY_OBJECT = '{"type":"object"}'
# The engine's settings that requests have under the same name.
SETTINGS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "min_tokens",
    "ignore_eos",
    "seed",
)
Batch = Sequence[tuple[int, Piece]]  # (place of the prompt, what happened to it)


class Inbox:
    """The events of one request, from the engine's thread to one coroutine."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._events: deque[tuple[int, Event]] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, prompt: int, event: Event) -> None:
        """From the engine's thread."""
        self._events.append((prompt, event))
        self._bell.ring(self)

    def wake(self) -> None:
        """On the loop: `some` looks again, whether an event is there or not."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def wake_later(self, delay_s: float) -> asyncio.TimerHandle:
        """Call `wake` after so long."""
        return self._bell.loop.call_later(delay_s, self.wake)

    async def some(self) -> None:
        """Wait until an event is there, or `wake` was called."""
        if not self._events:
            self._waiter = self._bell.loop.create_future()
            await self._waiter

    def first(self) -> Event | None:
        """The oldest event, which stays."""
        return self._events[0][1] if self._events else None

    def take(self) -> list[tuple[int, Event]]:
        """All that has come."""
        events = self._events
        return [events.popleft() for _ in range(len(events))]


class Tickets(list[Submitted]):
    """Those of one request, as the one thing that its call looks at."""

    @property
    def stage(self) -> str:
        """running once one of them is."""
        return "running" if any(ticket.stage == "running" for ticket in self) else "queued"

    def times(self) -> tuple[float, float]:
        """The longest waits in the queue and in compute."""
        each = [ticket.times() for ticket in self] or [(0.0, 0.0)]
        return max(queued for queued, _ in each), max(ran for _, ran in each)


@dataclass(slots=True)
class Running:
    """A submitted request: `n` sequences of each of its prompts."""

    served: Served
    call: Call
    ids: Sequence[Sequence[int]]  # of the prompts
    n: int
    inbox: Inbox
    tickets: Tickets = field(default_factory=Tickets)
    finishes: list[tuple[int, Finish]] = field(default_factory=list)  # with the place of their prompt
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def prompts(self) -> Prompts:
        """The text side of its model."""
        assert self.served.prompts is not None
        return self.served.prompts

    def cancel(self) -> None:
        """Free its slots before the next step; does nothing to what has ended."""
        for ticket in self.tickets:
            ticket.cancel()

    async def opened(self, patience_s: float) -> None:
        """Wait for the first event, at most `patience_s` (0: as long as it takes). Raises it where it is an error."""
        timer = self.inbox.wake_later(patience_s) if patience_s else None
        try:
            with self.call.watched(self.cancel):
                await self.inbox.some()
        except asyncio.CancelledError:
            self.cancel()
            raise
        finally:
            if timer is not None:
                timer.cancel()
            self.call.note_times()  # so far: a stream's headers are sent now
        first = self.inbox.first()
        if isinstance(first, SluiceError):
            self.cancel()
            raise first

    async def batches(self) -> AsyncGenerator[Batch]:
        """What has come, each time the inbox is woken, up to the last Finish. Raises the SluiceError that ends it."""
        left, call = len(self.ids) * self.n, self.call
        try:
            while left:
                await self.inbox.some()
                batch: list[tuple[int, Piece]] = []
                for prompt, event in self.inbox.take():
                    if isinstance(event, Token):
                        call.output_tokens += 1
                        call.tokens += 1
                        call.ttft_s = call.ttft_s or time.monotonic() - call.received
                    elif isinstance(event, Finish):
                        left -= 1
                        self.finishes.append((prompt, event))
                    elif isinstance(event, SluiceError):
                        if batch:
                            yield batch
                        raise event
                    batch.append((prompt, event))
                if not left:
                    self._account()
                yield batch
        finally:
            if left:
                call.note_times()
            self.cancel()

    def usage(self) -> dict[str, Any]:
        """OpenAI's token counts. A prompt counts once, and so does what of it came from the cache."""
        read = sum(map(len, self.ids))
        written = sum(finish.completion_tokens for _, finish in self.finishes)
        cached = [0] * len(self.ids)
        for prompt, finish in self.finishes:
            cached[prompt] = max(cached[prompt], finish.cached_tokens)
        return {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
            "prompt_tokens_details": {"cached_tokens": sum(cached)},
        }

    def _account(self) -> None:
        ends = [finish for _, finish in self.finishes]
        self.call.generation |= {
            "response.model": self.call.model,
            "response.finish_reasons": sorted({end.reason for end in ends}),
            "usage.cache_read.input_tokens": self.usage()["prompt_tokens_details"]["cached_tokens"],
        }
        self.call.output_tokens = sum(end.completion_tokens for end in ends)
        self.call.tokens = sum(map(len, self.ids)) + self.call.output_tokens
        self.call.queue_s = max(end.queue_s for end in ends)
        self.call.compute_s = max(end.prefill_s + end.decode_s for end in ends)


async def tokenised(
    room: Room, call: Call, served: Served, characters: int, encode: Callable[[Prompts], list[list[int]]]
) -> list[list[int]]:
    """The ids of each prompt, made in a thread where that takes long, and timed. Raises InvalidInput."""
    assert served.prompts is not None
    begun = time.monotonic()
    long = characters > INLINE_CHARACTERS
    ids = await asyncio.to_thread(encode, served.prompts) if long else encode(served.prompts)
    call.tokens = sum(map(len, ids))
    call.end_tokenizing(begun)
    room.metrics.tokenized(served.id, call.tokenize_s)
    return ids


async def submitted(
    room: Room, call: Call, served: Served, ids: Sequence[Sequence[int]], sampling: Sampling, n: int
) -> Running:
    """Every prompt is in the queue, or none. Raises what the engine's `submit` raises, and LimitExceeded."""
    engine = generator(served)
    call.items, most = len(ids) * n, room.settings.generation_queue_items
    if call.items > most:
        raise LimitExceeded(
            f"The request asks for {call.items} texts ({len(ids)} prompts, n is {n}); this server takes {most}. "
            "Send them in parts.",
            param="n" if n > 1 else "prompt",
        )
    call.generation = _asked(sampling, n)
    deadline = call.deadline(room.settings.completion_deadline_ms)
    inbox = Inbox(room.bell(asyncio.get_running_loop()))
    running = Running(served, call, ids, n, inbox)
    call.work = running.tickets
    try:
        for place, prompt in enumerate(ids):
            sink = partial(inbox.put, place)
            submit = partial(engine.submit, prompt, sampling, sink, n=n, deadline=deadline)
            # A schema becomes a grammar there, which may take long.
            running.tickets.append(await asyncio.to_thread(submit) if sampling.schema else submit())
    except BaseException as error:
        running.cancel()
        if isinstance(error, InvalidInput) and error.param == "schema":
            error.param = "response_format"
        raise
    return running


def generator(served: Served) -> TextEngine:
    """The engine of a generation model."""
    assert not isinstance(served.engine, EncoderEngine)
    return served.engine


def sampling(request: GenerationRequest, **more: Any) -> Sampling:
    """The engine's settings; what the request leaves open takes OpenAI's defaults. `more`: those of one route."""
    given = {name: value for name in SETTINGS if (value := getattr(request, name)) is not None}
    schema: str | None = None
    if request.response_format and request.response_format.type != "text":
        asked = request.response_format.json_schema
        schema = json.dumps(asked.schema_) if asked else ANY_OBJECT
    return Sampling(stop=request.stop, logit_bias=request.logit_bias, schema=schema, **given, **more)


def _asked(sampling: Sampling, n: int) -> dict[str, Any]:
    """What a span tells of a request (opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans). Texts, the stop
    strings among them, are the caller's and stay out."""
    names = ("max_tokens", "temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed")
    asked: dict[str, Any] = {f"request.{name}": getattr(sampling, name) for name in names}
    asked |= {"request.choice.count": n, "output.type": "json" if sampling.schema else "text"}
    return {name: value for name, value in asked.items() if value is not None}
