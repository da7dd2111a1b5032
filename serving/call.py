"""One HTTP request on its way through the room: who sent it, until when, what it cost; its body, and whether its
client is still there."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from runtime.errors import Cancelled, InvalidInput, LimitExceeded
from serving.errors import BodyTooSlow
from serving.lease import Leases

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

ID_CHARACTERS = re.compile(r"[^A-Za-z0-9._:/+=@-]")
MAX_ID = 128
TRACE = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-|$)")
MAX_DEADLINE_MS = 24 * 3600 * 1000
# A body that is too large is read on and thrown away up to this many times the limit: most clients write all before
# they read the answer, and would see a broken connection instead of it.
DISCARD_FACTOR = 8
# A body of so many bytes at most is on its way with its headers: under overload it is refused unread.
SMALL_BYTES = 16 * 1024
SCOPE_KEY = "sluice.call"
# The call that a typed method answers: BentoML hands those their arguments, not the request.
_CURRENT: ContextVar[Call] = ContextVar("call")


def current_call() -> Call:
    """The call behind a typed method; a call of its own where the method is called without HTTP."""
    return _CURRENT.get(None) or Call([], never)


async def never() -> Message:
    """A client that neither sends nor leaves."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


class Work(Protocol):
    """A request as an engine has it."""

    @property
    def stage(self) -> str:
        """queued | running."""
        ...

    def times(self) -> tuple[float, float]:
        """Seconds in the queue and in compute, up to now."""
        ...


class Call:
    """What is known of a request; filled in on its way and read by metrics, log and Server-Timing at the end."""

    __slots__ = (
        "_body_timeout_s",
        "_deadline_header",
        "_leases",
        "_unasked",
        "authorization",
        "compute_s",
        "content_length",
        "content_type",
        "error",
        "generation",
        "id",
        "items",
        "model",
        "output_tokens",
        "queue_s",
        "receive",
        "received",
        "route",
        "started",
        "status",
        "tag",
        "tokenize_s",
        "tokenized",
        "tokens",
        "trace_id",
        "ttft_s",
        "unread",
        "work",
    )

    def __init__(
        self, headers: list[tuple[bytes, bytes]], receive: Receive, *, body_timeout_s: float | None = None
    ) -> None:
        self.received = time.monotonic()
        self.receive = receive
        self._body_timeout_s = body_timeout_s
        self.id = ""
        self.authorization = b""
        self.content_type = b""
        self.content_length: bytes | None = None
        self.trace_id = ""
        self._deadline_header: bytes | None = None
        self._unasked = False  # the client sends its body only when it is asked to (Expect: 100-continue)
        self._leases: list[Leases] = []
        self.unread = False  # there may be more of the body to come
        self.route = "unmatched"
        self.model = self.tag = ""
        self.items = self.tokens = self.output_tokens = self.status = 0  # output_tokens of tokens were generated
        self.tokenize_s = self.queue_s = self.compute_s = 0.0
        self.generation: dict[str, Any] = {}  # what a completion's span tells, under OpenTelemetry's GenAI names
        self.ttft_s = 0.0  # of a completion: from `received` to its first token
        self.work: Work | None = None  # what an engine has of it
        self.tokenized = 0.0  # when that was done, and the queue began
        self.started = False
        self.error = ""
        for name, value in headers:
            if name == b"content-type":
                self.content_type = value
            elif name == b"content-length":
                self.content_length = value
            elif name == b"authorization":
                self.authorization = value
            elif name == b"expect":
                self._unasked = True
            elif name == b"x-request-id":
                self.id = ID_CHARACTERS.sub("", value.decode("latin-1"))[:MAX_ID]
            elif name == b"x-request-deadline-ms":
                self._deadline_header = value
            elif name == b"traceparent" and (trace := TRACE.match(value)):
                self.trace_id = trace[1].decode()
        self.id = self.id or f"{random.getrandbits(128):032x}"  # names a request, protects nothing

    def deadline(self, default_ms: int) -> float:
        """When the answer is wanted, on `time.monotonic()`. Raises InvalidInput on a header that says no such thing."""
        header = self._deadline_header
        if header is None:
            return self.received + default_ms / 1000
        text = header.strip()
        if not text.isdigit() or len(text) > len(str(MAX_DEADLINE_MS)) or not 1 <= int(text) <= MAX_DEADLINE_MS:
            raise InvalidInput(
                f"X-Request-Deadline-Ms is {header.decode('latin-1')[:40]!r}; it must be a whole number of ms "
                f"from 1 to {MAX_DEADLINE_MS}.",
                param="X-Request-Deadline-Ms",
            )
        return self.received + int(text) / 1000

    @property
    def small(self) -> bool:
        """Whether its body is sure to come, and soon: it may be answered unread, and the connection goes on."""
        size = self.content_length
        return size is not None and not self._unasked and size.isdigit() and int(size) <= SMALL_BYTES

    def end_tokenizing(self, begun: float) -> None:
        """Texts are token ids now, since `begun` on `time.monotonic()`; a request may come here twice."""
        self.tokenized = time.monotonic()
        self.tokenize_s += self.tokenized - begun

    @property
    def stage(self) -> str:
        """How far it has come: receiving, queued, running."""
        return self.work.stage if self.work else "receiving"

    def note_times(self) -> None:
        """Note how long its work has queued and run until now."""
        if self.work:
            self.queue_s, self.compute_s = self.work.times()

    def server_timing(self) -> bytes:
        """The stages so far, in ms."""
        total_ms = (time.monotonic() - self.received) * 1000
        if not self.model:
            return b"total;dur=%.2f" % total_ms
        return b"total;dur=%.2f, tokenize;dur=%.2f, queue;dur=%.2f, compute;dur=%.2f" % (
            total_ms,
            self.tokenize_s * 1000,
            self.queue_s * 1000,
            self.compute_s * 1000,
        )

    async def body(self, limit: int) -> bytes:
        """The whole body.

        Raises LimitExceeded above `limit` bytes, declared or not; BodyTooSlow; Cancelled if the client left.
        """
        try:
            async with asyncio.timeout(self._body_timeout_s):
                return await self._whole(limit)
        except TimeoutError:
            self.unread = True
            raise BodyTooSlow(
                f"The body did not arrive within {self._body_timeout_s:g} s. Send it faster, or in smaller requests."
            ) from None

    async def _whole(self, limit: int) -> bytes:
        declared = self.content_length
        if declared is not None and declared.isdigit() and int(declared) > limit:
            await self._discard(0 if self._unasked else limit * DISCARD_FACTOR)
            raise _too_large(f"{int(declared)} bytes", limit)
        message = await self._part()
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            parts, size = [body], len(body)
            while message.get("more_body"):
                message = await self._part()
                part = message.get("body", b"")
                size += len(part)
                if size > limit:
                    if message.get("more_body"):
                        await self._discard(limit * DISCARD_FACTOR - size)
                    raise _too_large(f"more than {limit} bytes", limit)
                parts.append(part)
            body = b"".join(parts)
        if len(body) > limit:
            raise _too_large(f"{len(body)} bytes", limit)
        return body

    async def _part(self) -> Message:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise Cancelled("The client left while it sent its request.")
        return message

    async def _discard(self, at_most: int) -> None:
        while at_most > 0:
            message = await self._part()
            at_most -= len(message.get("body", b""))
            if not message.get("more_body"):
                return
        self.unread = True

    @contextmanager
    def watched(self, leave: Callable[[], None]) -> Iterator[None]:
        """While inside, `leave` is called if the client goes away. The body must have been read."""
        watcher = asyncio.get_running_loop().create_task(_gone(self.receive, leave))
        try:
            yield
        finally:
            watcher.cancel()

    def hold(self, leases: Leases) -> None:
        """Keep an engine open until `release`."""
        leases.take()
        self._leases.append(leases)

    def release(self) -> None:
        """The request is over: the engines it used may be closed."""
        while self._leases:
            self._leases.pop().give_back()

    def make_current(self) -> None:
        """Be what `current_call` finds in this task and those it starts."""
        _CURRENT.set(self)


async def _gone(receive: Receive, leave: Callable[[], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    leave()


def _too_large(size: str, limit: int) -> LimitExceeded:
    return LimitExceeded(f"The body has {size}; this server takes {limit}. Send fewer items at once.")
