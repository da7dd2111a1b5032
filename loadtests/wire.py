"""What the answers must look like: checks of match and rerank bodies, and a reader of completion streams.

Pure functions over bytes; who fetched them, and how, is connection.py's matter. An answer that is not what was asked
for raises Malformed, which counts as an error of the server even when its status is 200.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any


class Malformed(Exception):
    """An answer that does not fit its request; `code` is stable and of few values, the message says what was seen."""

    def __init__(self, code: str, message: str, server_code: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.server_code = server_code


def check_match(body: bytes, pairs: int) -> None:
    """Check the answer to POST /v1/match: one result for every pair, each with a score in [0, 1]. Raises Malformed."""
    seen = _indexed_results(body)
    if sorted(seen) != list(range(pairs)):
        raise Malformed("malformed.results", f"{pairs} pairs were sent, results came for {sorted(seen)[:20]}")
    for index, result in seen.items():
        if "error" in result:
            raise Malformed("item_error", f"pair {index}: {str(result['error'])[:200]}", _code_of(result["error"]))
        _check_score(result.get("score"), f"pair {index}")


def check_rerank(body: bytes, documents: int) -> None:
    """Check the answer to POST /v1/rerank: every document once, scores in [0, 1] and falling. Raises Malformed."""
    seen = _indexed_results(body)
    if sorted(seen) != list(range(documents)):
        raise Malformed("malformed.results", f"{documents} documents were sent, results came for {sorted(seen)[:20]}")
    scores = [_check_score(result.get("relevance_score"), f"document {index}") for index, result in seen.items()]
    if scores != sorted(scores, reverse=True):
        raise Malformed("malformed.order", f"relevance scores are not in falling order: {scores[:20]}")


def read_error(body: bytes) -> tuple[str | None, str]:
    """Return the code and the message of an error body, or the beginning of a body that is none, on one line."""
    try:
        error = json.loads(body)["error"]
        return _code_of(error), str(error["message"])
    except (ValueError, TypeError, KeyError):
        return None, " ".join(body.decode("utf-8", "replace").split())[:200]


def read_retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for, as a number or as a date; None when it says neither."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    aware = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())


def read_server_timing(value: str | None) -> dict[str, float]:
    """Return the stages of a Server-Timing header, name to milliseconds; what cannot be read is left out."""
    stages: dict[str, float] = {}
    for part in (value or "").split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        for parameter in parameters:
            key, _, number = parameter.partition("=")
            if key.strip().lower() == "dur" and name:
                try:
                    stages[name] = float(number.strip().strip('"'))
                except ValueError:
                    continue
    return stages


@dataclass(slots=True)
class StreamReader:
    """Reads one completion stream line by line and keeps when its texts came.

    Feed every line with the time of its arrival, then call finish. An event with an empty text (a role, a finish
    reason, a usage block) is not a token; a comment line (a keep-alive) is not an event.
    """

    max_tokens: int
    text_times: list[float] = field(default_factory=list)
    usage_tokens: int | None = None
    done_at: float | None = None
    _data: list[bytes] = field(default_factory=list)
    _data_at: float = 0.0

    def feed(self, line: bytes, now: float) -> None:
        """Take one line without its line end; raises Malformed on an event that a completion stream cannot have."""
        if line.startswith(b"data:"):
            if not self._data:
                self._data_at = now
            self._data.append(line[5:].removeprefix(b" "))
        elif not line and self._data:
            data, self._data = b"\n".join(self._data), []
            self._take(data, self._data_at)

    def finish(self) -> None:
        """Check that the stream came to its proper end; raises Malformed when it did not."""
        if self._data:  # a stream may end without the last empty line
            self.feed(b"", self._data_at)
        if self.done_at is None:
            raise Malformed(
                "stream.cut", f"the stream ended without [DONE] after {len(self.text_times)} events with text"
            )
        if self.usage_tokens is not None and self.usage_tokens > self.max_tokens:
            raise Malformed(
                "malformed.usage", f"{self.usage_tokens} completion tokens, at most {self.max_tokens} were asked for"
            )

    @property
    def tokens(self) -> int:
        """Tokens of the completion: what usage says, or else the number of events with text."""
        return len(self.text_times) if self.usage_tokens is None else self.usage_tokens

    @property
    def gaps(self) -> tuple[float, ...]:
        """Seconds between each event with text and the one before it."""
        return tuple(later - earlier for earlier, later in zip(self.text_times, self.text_times[1:], strict=False))

    def _take(self, data: bytes, now: float) -> None:
        if self.done_at is not None:
            raise Malformed("stream.after_done", f"an event came after [DONE]: {data[:120]!r}")
        if data == b"[DONE]":
            self.done_at = now
            return
        event = _json_object(data)
        if "error" in event:
            raise Malformed("stream.error", str(event["error"])[:200], _code_of(event["error"]))
        choices = event.get("choices")
        if not isinstance(choices, list):
            raise Malformed("malformed.event", f"an event has no list of choices: {data[:120]!r}")
        if any(isinstance(choice, dict) and choice.get("text") for choice in choices):
            self.text_times.append(now)
        usage = event.get("usage")
        if isinstance(usage, dict) and isinstance(usage.get("completion_tokens"), int):
            self.usage_tokens = usage["completion_tokens"]


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError as error:
        raise Malformed("malformed.json", f"not JSON ({error}): {body[:120]!r}") from error
    if not isinstance(value, dict):
        raise Malformed("malformed.json", f"not a JSON object: {body[:120]!r}")
    return value


def _indexed_results(body: bytes) -> dict[int, dict[str, Any]]:
    results = _json_object(body).get("results")
    if not isinstance(results, list):
        raise Malformed("malformed.results", f"no list of results: {body[:120]!r}")
    seen: dict[int, dict[str, Any]] = {}
    for result in results:
        index = result.get("index") if isinstance(result, dict) else None
        if type(index) is not int or index in seen:
            raise Malformed("malformed.results", f"a result without an index of its own: {str(result)[:120]}")
        seen[index] = result
    return seen


def _check_score(score: object, where: str) -> float:
    if not isinstance(score, int | float) or isinstance(score, bool) or not math.isfinite(score) or not 0 <= score <= 1:
        raise Malformed("malformed.score", f"{where}: the score is {score!r}, it must lie in [0, 1]")
    return float(score)


def _code_of(error: object) -> str | None:
    code = error.get("code") or error.get("type") if isinstance(error, dict) else None
    return None if code is None else str(code)[:60]
