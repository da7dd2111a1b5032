"""Completions: a validated request in; the whole text, or its tokens one by one as server-sent events, out.

Tokens come from the engine's thread and cross to the event loop here. A stream's status line is not sent before its
first token, so that whatever goes wrong until then is answered with a proper status.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from runtime.contract import Event, Finish, Sampling, Token
from runtime.errors import SluiceError
from runtime.generation import GenerationEngine, Ticket
from serving.call import Call, Send
from serving.catalogue import Served
from serving.errors import describe
from serving.room import Room
from serving.route import to_json
from serving.schemas import CompletionRequest
from serving.submission import INLINE_CHARACTERS

DONE = b"data: [DONE]\n\n"
STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold tokens back
]


class Arrivals:
    """The events of one request, handed from the engine's thread to a coroutine."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: deque[Event] = deque()
        self._some = asyncio.Event()

    def sink(self, event: Event) -> None:
        """Called from the engine's thread."""
        self._events.append(event)
        self._loop.call_soon_threadsafe(self._some.set)

    async def next(self) -> Event:
        """The next event, once it is there."""
        while not self._events:
            self._some.clear()
            await self._some.wait()
        return self._events.popleft()


@dataclass(slots=True)
class Running:
    """A submitted completion: its model, its first event (there already) and the way to the others."""

    served: Served
    call: Call
    ticket: Ticket
    arrivals: Arrivals
    first: Event

    async def events(self) -> AsyncGenerator[Token | Finish]:
        """Tokens, then the Finish. Raises the SluiceError that ends the stream instead."""
        event, call = self.first, self.call
        try:
            while True:
                if isinstance(event, SluiceError):
                    raise event
                if isinstance(event, Finish):
                    call.tokens = event.prompt_tokens + event.completion_tokens
                    call.output_tokens = event.completion_tokens
                    call.queue_s, call.compute_s = event.queue_s, event.prefill_s + event.decode_s
                    yield event
                    return
                assert isinstance(event, Token)
                call.output_tokens += 1
                call.tokens += 1
                yield event
                event = await self.arrivals.next()
        finally:
            if not isinstance(event, Finish):
                call.note_times()
            self.ticket.cancel()  # does nothing to one that has ended


async def start(room: Room, call: Call, request: CompletionRequest) -> Running:
    """Submit a completion and wait for its first event.

    Raises what the engine's `encode` and `submit` raise, and the error of a stream that fails before its first token.
    """
    served = room.begin(call, ("generation",), request.model)
    call.items = 1
    engine = served.engine
    assert isinstance(engine, GenerationEngine)
    deadline = call.deadline(room.settings.completion_deadline_ms)
    begun = time.monotonic()
    ids: list[int]
    if not isinstance(request.prompt, str):
        ids = list(request.prompt)
    elif len(request.prompt) > INLINE_CHARACTERS:
        ids = await asyncio.to_thread(engine.encode, request.prompt)
    else:
        ids = engine.encode(request.prompt)
    call.tokens = len(ids)
    call.end_tokenizing(begun)
    room.metrics.tokenized(served.id, call.tokenize_s)
    arrivals = Arrivals()
    ticket = engine.submit(ids, sampling(request), arrivals.sink, deadline=deadline)
    call.work = ticket
    try:
        with call.watched(ticket.cancel):
            first = await arrivals.next()
    except asyncio.CancelledError:
        ticket.cancel()
        raise
    finally:
        call.note_times()  # so far: a stream's headers are sent now
    if isinstance(first, SluiceError):
        raise first
    if isinstance(first, Token):
        call.ttft_s = time.monotonic() - call.received
    return Running(served, call, ticket, arrivals, first)


def sampling(request: CompletionRequest) -> Sampling:
    """The engine's settings; what the request leaves open takes OpenAI's defaults."""
    given = {
        name: value
        for name in ("max_tokens", "temperature", "top_p", "top_k", "seed")
        if (value := getattr(request, name)) is not None
    }
    return Sampling(stop=request.stop, **given)


async def whole(running: Running) -> dict[str, Any]:
    """The answer of a completion that is not streamed."""
    text: list[str] = []
    with running.call.watched(running.ticket.cancel):
        async with aclosing(running.events()) as events:
            async for event in events:
                text.append(event.text)
    assert isinstance(event, Finish)
    return {
        **_frame(running),
        "choices": [{"index": 0, "text": "".join(text), "logprobs": None, "finish_reason": event.reason}],
        "usage": _usage(event),
    }


async def stream(running: Running, send: Send, *, include_usage: bool) -> None:
    """Send a completion as server-sent events; an error after the first token is an event of its own, the last."""
    frame = _frame(running)
    usage: dict[str, Any] = {"usage": None} if include_usage else {}
    await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})

    async def emit(data: bytes) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": True})

    def chunk(text: str, reason: str | None) -> bytes:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
        return _event({**frame, "choices": [choice], **usage})

    with running.call.watched(running.ticket.cancel):
        try:
            async with aclosing(running.events()) as events:
                async for event in events:
                    if isinstance(event, Finish):
                        await emit(chunk(event.text, event.reason))
                        if include_usage:
                            await emit(_event({**frame, "choices": [], "usage": _usage(event)}))
                    elif event.text:
                        await emit(chunk(event.text, None))
            await emit(DONE)
        except SluiceError as error:
            running.call.error = error.code
            if error.code == "cancelled":
                running.call.status = 499
            await emit(_event({"error": describe(error, running.call.id)}))
    await send({"type": "http.response.body", "body": b""})


def _frame(running: Running) -> dict[str, Any]:
    return {
        "id": f"cmpl-{running.call.id}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": running.served.id,
    }


def _usage(finish: Finish) -> dict[str, int]:
    return {
        "prompt_tokens": finish.prompt_tokens,
        "completion_tokens": finish.completion_tokens,
        "total_tokens": finish.prompt_tokens + finish.completion_tokens,
    }


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {to_json(value)}\n\n".encode()
