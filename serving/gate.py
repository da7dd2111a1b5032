"""The outermost ASGI layer: gives every request its id, key check, headers, metrics and log line, and every failure
the one error body. Pure ASGI, because this runs on each request and each streamed token."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from runtime.errors import Cancelled, SluiceError
from serving.call import SCOPE_KEY, Call, Message, Receive, Send, never
from serving.errors import Unauthorized, error_answer, status_of
from serving.lifecycle import Lifecycle
from serving.metrics import Metrics
from serving.settings import Settings
from serving.tracing import open_tracing

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("sluice.access")

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Pages and probes carry nothing secret, and neither browsers nor load balancers can send a key with them.
OPEN_PATHS = frozenset({"/", "/docs", "/openapi.json", "/livez", "/readyz", "/metrics"})
OPEN_PREFIX = "/docs/assets/"
PROBES = frozenset({"/livez", "/readyz", "/metrics"})
# BentoML's own protocol: its typed methods, and the description that its clients read first.
BENTO_PREFIX, BENTO_SCHEMA = "/bentoml/", "/schema.json"


class Internal(SluiceError):
    """A failure of ours."""


class Gate:
    """Wraps `app` (our contract) and `bento` (BentoML's own routes, None where there is no BentoML)."""

    def __init__(self, app: App, bento: App | None, settings: Settings, metrics: Metrics, lifecycle: Lifecycle) -> None:
        self._app = app
        self._bento = bento
        self._settings = settings
        self._metrics = metrics
        self._lifecycle = lifecycle
        self._tracing = open_tracing(settings.traces_exporter)
        # Digests have one length, so a comparison's time says nothing about a key.
        self._keys = [_digest(key.get_secret_value().encode()) for key in settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; other kinds of scope go to `app` as they are."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = Call(scope["headers"], receive, body_timeout_s=self._settings.body_timeout_s)
        scope[SCOPE_KEY] = call
        path = scope["path"]
        work = path not in PROBES
        self._lifecycle.in_flight += work

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                call.started = True
                call.status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", call.id.encode()),
                    (b"server-timing", call.server_timing()),
                ]
                if call.unread:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            self._admit(call, scope["method"], path)
            if self._bento is not None and (path.startswith(BENTO_PREFIX) or path == BENTO_SCHEMA):
                await self._typed(self._bento, scope, call, answer)
            else:
                await self._app(_as_get(scope), receive, answer)
        except SluiceError as error:
            await self._refuse(call, error, answer)
        except Exception as error:
            logger.exception("request %s to %s failed", call.id, call.route)
            if call.error == Internal.code:
                return  # the app has answered it
            if call.started:
                raise  # the HTTP server cuts the connection: a broken answer must not look like a whole one
            await self._refuse(call, Internal(repr(error)), answer)
        finally:
            self._lifecycle.in_flight -= work
            self._account(call, scope, path)
            call.release()

    def close(self) -> None:
        """No more requests come: send the spans that were not sent yet."""
        if self._tracing is not None:
            self._tracing.close()

    def _admit(self, call: Call, method: str, path: str) -> None:
        """Raises Unauthorized unless the request carries one of the keys, or needs none."""
        if not self._keys or (path in OPEN_PATHS and method != "POST") or path.startswith(OPEN_PREFIX):
            return
        scheme, _, key = call.authorization.partition(b" ")
        given = _digest(key.strip())
        # Every key is compared, so that the time does not tell which one was nearly right.
        known = [hmac.compare_digest(given, each) for each in self._keys]
        if scheme.lower() != b"bearer" or not any(known):
            what = "is not known here" if call.authorization else "is missing"
            raise Unauthorized(f"The API key {what}; send `Authorization: Bearer KEY`.")

    async def _typed(self, bento: App, scope: Scope, call: Call, send: Send) -> None:
        """A route of BentoML's: within the same body limit, and given up when the client leaves."""
        call.route = scope["path"] if scope["path"] in TYPED_ROUTES else "unmatched"
        body = await call.body(self._settings.max_body_bytes)
        parts = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return parts.pop() if parts else await never()

        call.make_current()
        task = asyncio.ensure_future(bento(scope, replay, send))
        left = asyncio.Event()

        def give_up() -> None:
            left.set()
            task.cancel()

        async def leave() -> Message:
            await left.wait()
            return {"type": "http.disconnect"}

        with call.watched(give_up):
            # BentoML's time-out middleware does not pass a cancellation on, so the method is also told by its call.
            call.receive = leave
            try:
                await task
            except asyncio.CancelledError:
                if not task.cancelled():
                    raise
                raise Cancelled("The client left.") from None

    async def _refuse(self, call: Call, error: SluiceError, send: Send) -> None:
        call.error = error.code
        if isinstance(error, Cancelled):
            call.status = status_of(error)
            return
        status, headers, body = error_answer(error, call.id)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _account(self, call: Call, scope: Scope, path: str) -> None:
        status = call.status or 499
        if status == 499:
            call.note_times()  # a typed method may still be on its way to its end
        total_s = time.monotonic() - call.received
        self._metrics.request(call.route, status, call.model, total_s)
        if status == 499 and call.stage == "receiving":
            self._metrics.left(call.model, "receiving")
        if self._tracing is not None and path not in PROBES:
            self._tracing.record(call, scope, status)
        if not self._settings.access_log or path in PROBES:
            return
        line = {
            "time": round(time.time(), 3),
            "request_id": call.id,
            "method": scope["method"],
            "route": call.route,
            "status": status,
            "model": call.tag,
            "items": call.items,
            "tokens": call.tokens,
            "total_ms": round(total_s * 1000, 2),
            "tokenize_ms": round(call.tokenize_s * 1000, 2),
            "queue_ms": round(call.queue_s * 1000, 2),
            "compute_ms": round(call.compute_s * 1000, 2),
        }
        if call.ttft_s:
            line["ttft_ms"] = round(call.ttft_s * 1000, 2)
        if call.error:
            line["error"] = call.error
        if status == 499:
            line["stage"] = call.stage
        if call.trace_id:
            line["trace_id"] = call.trace_id
        access_logger.info(json.dumps(line))


TYPED_ROUTES = frozenset(
    {f"{BENTO_PREFIX}{name}" for name in ("match", "rerank", "embed", "generate")} | {BENTO_SCHEMA}
)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _as_get(scope: Scope) -> Scope:
    """HEAD is answered like GET; the HTTP server leaves the body out."""
    return {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
