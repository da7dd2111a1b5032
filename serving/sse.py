"""Server-sent events: the stream of a completion or a chat, from its status line to its end.

The constant parts of a chunk are written once, and what an engine's step brings to a stream goes out in one write.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from runtime.contract import Piece
from runtime.errors import SluiceError
from serving.call import Call
from serving.errors import describe
from serving.generation import Inbox, Running
from serving.route import to_json

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"  # a comment: clients skip it, proxies see a connection that lives
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold tokens back
]


class Frame:
    """What the chunks of a stream have in common."""

    def __init__(self, running: Running, prefix: str, kind: str, *, include_usage: bool) -> None:
        self.include_usage = include_usage
        self._head = (
            f'data: {{"id":{to_json(prefix + running.call.id)},"object":"{kind}","created":{running.created},'
            f'"model":{to_json(running.served.id)},"choices":['
        )
        self._tail = '],"usage":null}\n\n' if include_usage else "]}\n\n"

    def chunk(self, choice: str) -> bytes:
        """The event of one choice, which is JSON already."""
        return f"{self._head}{choice}{self._tail}".encode()

    def usage(self, counts: dict[str, Any]) -> bytes:
        """The event that ends a stream with its token counts; nothing where they were not asked for."""
        return f'{self._head}],"usage":{to_json(counts)}}}\n\n'.encode() if self.include_usage else b""


class Chunks(Protocol):
    """What a route writes into a stream."""

    frame: Frame

    def opening(self) -> bytes:
        """The first events."""
        ...

    def chunk(self, prompt: int, piece: Piece) -> bytes:
        """The events of what happened to a prompt; often none."""
        ...


class Heartbeat:
    """Wakes a stream that has sent nothing for `every_s`; 0: never."""

    def __init__(self, inbox: Inbox, every_s: float) -> None:
        self._inbox, self._every_s = inbox, every_s
        self._loop = asyncio.get_running_loop()
        self._sent = self._loop.time()
        self._timer = self._loop.call_later(every_s, self._look) if every_s else None

    def sent(self) -> None:
        """Something was sent just now."""
        self._sent = self._loop.time()

    @property
    def due(self) -> bool:
        """Whether it is time for a comment."""
        return self._timer is not None and self._loop.time() - self._sent >= self._every_s

    def stop(self) -> None:
        """No more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        if self.due:
            self._inbox.wake()
            rest_s = self._every_s
        else:
            rest_s = self._sent + self._every_s - self._loop.time()
        self._timer = self._loop.call_later(rest_s, self._look)


class EventStream(Response):
    """A response that is written as its events come; an error in the middle is an event of its own, the last."""

    def __init__(self, running: Running, chunks: Chunks, keep_alive_s: float) -> None:
        self.background = None
        self._running, self._chunks, self._keep_alive_s = running, chunks, keep_alive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write the stream."""
        running, call = self._running, self._running.call
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        beat = Heartbeat(running.inbox, self._keep_alive_s)
        try:
            with call.watched(running.cancel):
                await self._write(send, beat)
        except SluiceError as error:
            await send({"type": "http.response.body", "body": _failure(error, call), "more_body": True})
        finally:
            beat.stop()
        await send({"type": "http.response.body", "body": b""})

    async def _write(self, send: Send, beat: Heartbeat) -> None:
        chunk, ready = self._chunks.chunk, self._chunks.opening()
        async with aclosing(self._running.batches()) as batches:
            async for batch in batches:
                data = ready + b"".join([chunk(prompt, piece) for prompt, piece in batch])
                ready = b""
                if not data and beat.due:
                    data = KEEP_ALIVE
                if data:
                    beat.sent()
                    await send({"type": "http.response.body", "body": data, "more_body": True})
        last = self._chunks.frame.usage(self._running.usage()) + DONE
        await send({"type": "http.response.body", "body": last, "more_body": True})


def _failure(error: SluiceError, call: Call) -> bytes:
    call.error = error.code
    if error.code == "cancelled":
        call.status = 499
    return f"data: {to_json({'error': describe(error, call.id)})}\n\n".encode()
