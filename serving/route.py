"""A FastAPI route that documents itself like any other, and answers leanly.

FastAPI reads the endpoint's signature for /openapi.json. The request itself takes a shorter way than FastAPI's own:
the body goes from bytes to the endpoint's pydantic model in one step, and every SluiceError becomes the one error body.
"""

from __future__ import annotations

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

from runtime.errors import Cancelled, SluiceError
from serving.call import SCOPE_KEY, Call
from serving.errors import MalformedJson, UnsupportedMediaType, error_answer, from_validation, status_of

# Made once: `json.dumps` makes an encoder for every call that is not its default.
to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
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

    def get_route_handler(self) -> Handler:
        """The short way, made once."""
        endpoint, path = self.endpoint, self.path_format
        parameters = inspect.signature(endpoint).parameters
        hints = get_type_hints(endpoint)
        model: type[BaseModel] | None = hints.get("body")
        limit: int = 0
        if model is not None:
            limit = cast(FastAPI, self.dependency_overrides_provider).state.max_body_bytes
            fields = list(model.model_fields)
        named = [name for name in parameters if name not in ("request", "body")]

        async def handle(request: Request) -> Response:
            call = call_of(request)
            call.route = path
            try:
                arguments: dict[str, Any] = {name: request.path_params[name] for name in named}
                if model is not None:
                    arguments["body"] = parse(model, fields, call, await call.body(limit))
                response: Response = await endpoint(request=request, **arguments)
                return response
            except Cancelled as error:
                call.error, call.status = error.code, status_of(error)
                return Silence()
            except SluiceError as error:
                return refusal(call, error)

        return handle


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
