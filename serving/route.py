"""A FastAPI route that documents itself like any other, and answers leanly.

FastAPI reads the endpoint's signature for /openapi.json. The request itself takes a shorter way than FastAPI's own:
the body goes from bytes to the endpoint's pydantic model in one step, and every SluiceError becomes the one error body.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Coroutine
from typing import Any, cast, get_type_hints

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from runtime.errors import Cancelled, LimitExceeded, SluiceError
from serving.call import SCOPE_KEY, Call
from serving.errors import MalformedJson, UnsupportedMediaType, error_answer, from_validation, status_of

# Made once: `json.dumps` makes an encoder for every call that is not its default.
_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
to_json = _encoder.encode
# A longer body is parsed in a thread, and longer texts are written in one: so many bytes take about a millisecond.
INLINE_BYTES = 64 * 1024
# What such a body may hold for each item that a request may have: an item has two texts, and names for them.
VALUES_AN_ITEM = 8
# A number in a list is parsed about this many times faster than a text, a list or an object.
NUMBERS_A_VALUE = 16
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Answer(Response):
    """A response whose headers and body are ready: nothing is derived, nothing is copied."""

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.status_code = status
        self.body = body
        self.raw_headers = headers
        self.background = None


class Silence(Response):
    """No answer: the client has left."""

    def __init__(self) -> None:
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send nothing."""


def json_answer(value: Any) -> Answer:
    """200 with a JSON body."""
    return written_answer(to_json(value))


async def json_text(value: Any, characters: int) -> str:
    """JSON of a value with texts of so many characters: long ones are written in a thread, piece by piece, so that the
    event loop turns meanwhile."""
    if characters <= INLINE_BYTES:
        return to_json(value)
    return await asyncio.to_thread(lambda: "".join(_encoder.iterencode(value)))


def written_answer(text: str, *headers: tuple[bytes, bytes]) -> Answer:
    """200 with a body that is JSON already."""
    body = text.encode()
    length = str(len(body)).encode()
    return Answer(200, [(b"content-type", b"application/json"), (b"content-length", length), *headers], body)


def refusal(call: Call, error: SluiceError) -> Answer:
    """The answer to an error; noted in the call for the log."""
    call.error = error.code
    return Answer(*error_answer(error, call.id))


def call_of(request: Request) -> Call:
    """The call that the gate has made for this request."""
    call: Call = request.scope[SCOPE_KEY]
    return call


class LeanApp(FastAPI):
    """FastAPI whose lean routes without path parameters are found by one look-up: what its middlewares do for others
    (errors, limits, exit stacks), the gate and these routes do themselves."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.router.route_class = LeanRoute
        self._direct: dict[tuple[str, str], Handler] = {}

    def settle(self) -> None:
        """All routes are there: make the table."""
        for route in self.routes:
            if isinstance(route, LeanRoute) and not route.param_convertors:
                handler = route.get_route_handler()
                self._direct |= {(method, route.path): handler for method in route.methods or ()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        handler = self._direct.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if handler is None:
            await super().__call__(scope, receive, send)
        else:
            response = await handler(Request(scope, receive, send))
            await response(scope, receive, send)


class LeanRoute(APIRoute):
    """See the module. An endpoint takes the request, and its body where it has one."""

    refuse = staticmethod(refusal)

    def get_route_handler(self) -> Handler:
        """The short way, made once."""
        endpoint, path, refuse = self.endpoint, self.path_format, self.refuse
        parameters = inspect.signature(endpoint).parameters
        hints = get_type_hints(endpoint)
        model: type[BaseModel] | None = hints.get("body")
        limit: int = 0
        if model is not None:
            state = cast(FastAPI, self.dependency_overrides_provider).state
            limit, most = state.max_body_bytes, state.max_values
            fields = list(model.model_fields)
            turn_away: Callable[..., None] | None = state.turn_away.get(path)
        named = [name for name in parameters if name not in ("request", "body")]

        async def handle(request: Request) -> Response:
            call = call_of(request)
            call.route = path
            try:
                arguments: dict[str, Any] = {name: request.path_params[name] for name in named}
                if model is not None:
                    if turn_away is not None and call.small:
                        turn_away(call=call)
                    body = await call.body(limit)
                    if len(body) <= INLINE_BYTES:
                        arguments["body"] = parse(model, fields, call, body)
                    else:
                        arguments["body"] = await asyncio.to_thread(parse_long, model, fields, call, body, most)
                response: Response = await endpoint(request=request, **arguments)
                return response
            except Cancelled as error:
                call.error, call.status = error.code, status_of(error)
                return Silence()
            except SluiceError as error:
                return refuse(call, error)

        return handle


def parse_long(model: type[BaseModel], fields: list[str], call: Call, body: bytes, most: int) -> BaseModel:
    """As `parse`. Raises LimitExceeded above `most` values: the parser holds the interpreter until it is done, in a
    thread or not, and its time grows with the values of a body much more than with its bytes."""
    if (values := count_values(body, most)) > most:
        raise LimitExceeded(
            f"The body has {values} JSON values or more; this server takes {most} in a body of more than "
            f"{INLINE_BYTES} bytes. Send fewer items at once."
        )
    return parse(model, fields, call, body)


def count_values(body: bytes, enough: int) -> int:
    """The texts, names, lists and objects of a JSON text, and a sixteenth of its commas; counting ends at `enough`."""
    unescaped = body.replace(rb"\\", b"").replace(rb"\"", b"")
    texts = unescaped.count(b'"') // 2
    if texts > enough:
        return texts
    around = b"".join(unescaped.split(b'"')[::2])
    return texts + around.count(b"[") + around.count(b"{") + around.count(b",") // NUMBERS_A_VALUE


def parse(model: type[BaseModel], fields: list[str], call: Call, body: bytes) -> BaseModel:
    """A body's bytes to its model. Raises UnsupportedMediaType, MalformedJson, InvalidInput."""
    media_type = call.content_type.partition(b";")[0].strip().lower()
    if media_type not in (b"application/json", b"") and not media_type.endswith(b"+json"):
        raise UnsupportedMediaType(
            f"The body is declared as {media_type.decode('latin-1')[:80]!r}; send it as application/json."
        )
    if not body.strip():
        raise MalformedJson("The body is empty; send a JSON object.")
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise from_validation(error, fields) from None
