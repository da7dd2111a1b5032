"""A client that speaks ASGI: no sockets, but the very messages that a server would exchange with the app."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from serving.gate import Gate


@dataclass
class Reply:
    """What came back; `chunks` as they were flushed. `status` 0: nothing did."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    ended: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json()["error"]
        return error

    def events(self) -> list[Any]:
        """Server-sent events, the last one "[DONE]" where it came."""
        texts = [text.removeprefix("data: ") for text in self.body.decode().split("\n\n") if text]
        return [text if text == "[DONE]" else json.loads(text) for text in texts]


async def exchange(
    app: Gate,
    method: str,
    path: str,
    value: Any = None,
    *,
    parts: Sequence[bytes] | None = None,
    headers: dict[str, str] | None = None,
    leave: asyncio.Event | None = None,
    ends: bool = True,
) -> Reply:
    """One request. `parts`: a body sent in these chunks; `leave`: the client goes away when it is set; `ends`: whether
    the last chunk ends the body."""
    sent = {"content-type": "application/json"} if value is not None or parts is not None else {}
    sent |= {name.lower(): each for name, each in (headers or {}).items()}
    chunks = list(parts) if parts is not None else [json.dumps(value).encode() if value is not None else b""]
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), each.encode("latin-1")) for name, each in sent.items()],
        "server": ("test", 80),
        "client": ("test", 1),
    }
    reply = Reply()
    done = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if chunks:
            return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks) or not ends}
        waiters = [asyncio.ensure_future(event.wait()) for event in (done, leave) if event is not None]
        await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
        for waiter in waiters:
            waiter.cancel()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            reply.status = message["status"]
            reply.headers = {name.decode().lower(): each.decode() for name, each in message["headers"]}
        else:
            if message.get("body"):
                reply.chunks.append(message["body"])
            reply.ended = not message.get("more_body")

    try:
        await app(scope, receive, send)
    finally:
        done.set()
    return reply


def ask(app: Gate, method: str, path: str, value: Any = None, **options: Any) -> Reply:
    """`exchange`, from a test that is not a coroutine."""
    return asyncio.run(exchange(app, method, path, value, **options))


def match(app: Gate, *pairs: tuple[str, str], headers: dict[str, str] | None = None, **fields: Any) -> Reply:
    """POST /v1/match."""
    value = {"pairs": [{"text_a": a, "text_b": b} for a, b in pairs], **fields}
    return ask(app, "POST", "/v1/match", value, headers=headers)


def complete(app: Gate, headers: dict[str, str] | None = None, **fields: Any) -> Reply:
    """POST /v1/completions."""
    return ask(app, "POST", "/v1/completions", {"prompt": "x", **fields}, headers=headers)
