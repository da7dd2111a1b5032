"""Errors on the wire: the one table from code to HTTP status, and the one body that every route answers with.

Extends the engine's tree (runtime/errors.py) by what only HTTP can get wrong:

    SluiceError
    ├── InvalidInput
    │   ├── MalformedJson         the body is not JSON
    │   ├── Empty                 no texts on a route of text-embeddings-inference
    │   └── WrongKind             no model of a kind that this route needs
    ├── BodyTooSlow               the body did not arrive in time
    ├── UnsupportedMediaType      the body is declared as something else than JSON
    ├── Unauthorized              no key, or a wrong one
    ├── RouteNotFound             no such path
    └── MethodNotAllowed          the path exists, not with this method; carries what is allowed
"""

from __future__ import annotations

import json
import logging
import math
from typing import Any

from pydantic import ValidationError

from runtime.errors import InvalidInput, Overloaded, SluiceError

logger = logging.getLogger(__name__)
MAX_PROBLEMS = 100
SHOWN_VALUE = 80  # characters of a caller's value that a message quotes


class MalformedJson(InvalidInput):
    code = "malformed_json"


class Empty(InvalidInput):
    code = "empty"


class WrongKind(InvalidInput):
    code = "wrong_kind"


class BodyTooSlow(SluiceError):
    code = "body_too_slow"
    retryable = True


class UnsupportedMediaType(SluiceError):
    code = "unsupported_media_type"


class Unauthorized(SluiceError):
    code = "unauthorized"


class RouteNotFound(SluiceError):
    code = "not_found"


class MethodNotAllowed(SluiceError):
    code = "method_not_allowed"

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


REQUEST, SERVER = "invalid_request_error", "server_error"
# code -> (status, type). `type` is OpenAI's vocabulary, because its clients branch on it.
TABLE: dict[str, tuple[int, str]] = {
    "invalid_input": (400, REQUEST),
    "malformed_json": (400, REQUEST),
    "empty": (400, REQUEST),
    "wrong_kind": (400, REQUEST),
    "unauthorized": (401, "authentication_error"),
    "not_found": (404, "not_found_error"),
    "model_not_found": (404, "not_found_error"),
    "method_not_allowed": (405, REQUEST),
    "body_too_slow": (408, REQUEST),
    "limit_exceeded": (413, REQUEST),
    "unsupported_media_type": (415, REQUEST),
    "too_many_tokens": (422, REQUEST),
    "overloaded": (429, "rate_limit_error"),
    "cancelled": (499, REQUEST),
    "internal": (500, SERVER),
    "backend_failed": (500, SERVER),
    "artifact_refused": (500, SERVER),
    "device_refused": (500, SERVER),
    "not_ready": (503, SERVER),
    "deadline_exceeded": (504, "timeout_error"),
}
# What a caller reads instead of the exception's own text: that text is for the log.
HIDDEN = {
    "internal": "The server failed on this request. The cause is in its log under the request id.",
    "backend_failed": "The model failed on this input. The cause is in the server's log under the request id.",
    "artifact_refused": "The model cannot be used. The cause is in the server's log under the request id.",
    "device_refused": "The model cannot be used. The cause is in the server's log under the request id.",
}
RETRY_NOT_READY_S = 1

Headers = list[tuple[bytes, bytes]]


def status_of(error: SluiceError) -> int:
    """HTTP status of an error."""
    return TABLE[error.code][0]


def describe(error: SluiceError, request_id: str) -> dict[str, Any]:
    """The `error` object of a body, an item or a stream event. What the caller is not told goes to the log."""
    if error.code in HIDDEN:
        logger.error("request %s: %s", request_id, error.message)
    return {
        "type": TABLE[error.code][1],
        "code": error.code,
        "message": HIDDEN.get(error.code, error.message),
        "param": error.param,
        "retryable": error.retryable,
        "request_id": request_id,
    }


def error_answer(error: SluiceError, request_id: str) -> tuple[int, Headers, bytes]:
    """Status, headers and body of an error."""
    body = json.dumps({"error": describe(error, request_id)}).encode()
    return status_of(error), headers_of(error, body), body


def headers_of(error: SluiceError, body: bytes) -> Headers:
    """Headers of an error's answer."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if isinstance(error, Overloaded):
        headers.append((b"retry-after", str(max(1, math.ceil(error.retry_after_s))).encode()))
    elif error.code == "not_ready":
        headers.append((b"retry-after", str(RETRY_NOT_READY_S).encode()))
    elif isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", b"Bearer"))
    elif isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allow.encode()))
    return headers


def from_validation(error: ValidationError, fields: list[str]) -> InvalidInput:
    """The first problem of a body, naming the field, the value and the rule. `fields`: what the route takes."""
    if error.error_count() > MAX_PROBLEMS:
        # pydantic can only tell all of them, which takes seconds where somebody sends a million unknown fields.
        return InvalidInput(f"The body has {error.error_count()} problems; this route takes {', '.join(fields)}.")
    problem = error.errors(include_url=False, include_context=True)[0]
    if problem["type"] == "json_invalid":
        return MalformedJson(f"The body is not JSON: {problem['ctx']['error']}.")
    param = _path(problem["loc"])
    if problem["type"] == "extra_forbidden":
        where = f"; this route takes {', '.join(fields)}" if len(problem["loc"]) == 1 else ""
        return InvalidInput(f"Field {param!r} is not supported{where}.", param=param)
    if problem["type"] == "missing":
        return InvalidInput(f"Field {param!r} is missing.", param=param)
    rule = problem["msg"].removeprefix("Value error, ")
    if not param:
        return InvalidInput(f"The body must be a JSON object, not {_shown(problem['input'])}.")
    return InvalidInput(f"{param} is {_shown(problem['input'])}: {rule}.", param=param)


def _shown(value: Any) -> str:
    text = json.dumps(value[:SHOWN_VALUE] if isinstance(value, str | list) else value, default=repr)
    return text if len(text) <= SHOWN_VALUE else f"{text[:SHOWN_VALUE]}…"


def _path(location: tuple[int | str, ...]) -> str:
    """("pairs", 0, "text_a") -> pairs[0].text_a"""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path[: 2 * SHOWN_VALUE]
