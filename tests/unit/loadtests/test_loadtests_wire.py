"""What counts as an answer: bodies and streams that are not what was asked for are refused by name."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from loadtests.wire import (
    Malformed,
    StreamReader,
    check_match,
    check_rerank,
    read_error,
    read_retry_after,
    read_server_timing,
)

pytestmark = pytest.mark.unit


def body(*results: dict[str, Any]) -> bytes:
    return json.dumps({"results": results}).encode()


def test_a_match_answer_with_one_score_a_pair_is_accepted_in_any_order() -> None:
    check_match(body({"index": 1, "score": 1}, {"index": 0, "score": 0.0}), 2)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"<html>", "malformed.json"),
        (b"\xff\xfe", "malformed.json"),
        (b"[]", "malformed.json"),
        (b"{}", "malformed.results"),
        (body({"index": 0, "score": 0.5}), "malformed.results"),
        (body({"index": 0, "score": 0.5}, {"index": 0, "score": 0.5}), "malformed.results"),
        (body({"index": 0, "score": 0.5}, {"index": 2, "score": 0.5}), "malformed.results"),
        (body({"index": 0, "score": 0.5}, {"index": True, "score": 0.5}), "malformed.results"),
        (body({"index": 0, "score": 0.5}, {"index": 1, "score": 1.01}), "malformed.score"),
        (body({"index": 0, "score": 0.5}, {"index": 1, "score": -0.1}), "malformed.score"),
        (body({"index": 0, "score": 0.5}, {"index": 1, "score": float("nan")}), "malformed.score"),
        (body({"index": 0, "score": 0.5}, {"index": 1, "score": True}), "malformed.score"),
        (body({"index": 0, "score": 0.5}, {"index": 1, "score": None}), "malformed.score"),
        (body({"index": 0, "score": 0.5}, {"index": 1}), "malformed.score"),
        (body({"index": 0, "score": 0.5}, {"index": 1, "error": {"code": "too_long"}}), "item_error"),
    ],
)
def test_a_match_answer_that_does_not_fit_two_pairs_is_malformed(answer: bytes, code: str) -> None:
    with pytest.raises(Malformed) as caught:
        check_match(answer, 2)
    assert caught.value.code == code


def test_a_rerank_answer_must_be_complete_and_fall() -> None:
    check_rerank(body({"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.9}), 2)
    with pytest.raises(Malformed, match="falling") as caught:
        check_rerank(body({"index": 0, "relevance_score": 0.1}, {"index": 1, "relevance_score": 0.9}), 2)
    assert caught.value.code == "malformed.order"
    with pytest.raises(Malformed, match="2 documents"):
        check_rerank(body({"index": 0, "relevance_score": 0.1}), 2)


def event(text: str | None = None, **extra: Any) -> bytes:
    choices = [] if text is None else [{"index": 0, "text": text}]
    return b"data: " + json.dumps({"choices": choices, **extra}).encode()


def read(lines: list[bytes], max_tokens: int = 10) -> StreamReader:
    reader = StreamReader(max_tokens)
    for number, line in enumerate(lines):
        reader.feed(line, float(number))
    reader.finish()
    return reader


def test_a_stream_is_timed_by_the_events_that_carry_text() -> None:
    lines = [
        event(""), b"",  # 0: no text yet
        event("a"), b"",  # 2
        b": keep-alive", b"",
        event("b"), b"",  # 6
        event("c"), b"",  # 8
        event("", finish_reason="stop"), b"",
        event(usage={"completion_tokens": 5}), b"",
        b"data: [DONE]", b"",  # 14
    ]  # fmt: skip
    reader = read(lines)
    assert reader.text_times == [2.0, 6.0, 8.0]
    assert reader.gaps == (4.0, 2.0)
    assert reader.tokens == 5
    assert reader.done_at == 14.0


def test_without_usage_events_with_text_are_the_tokens_and_the_last_empty_line_may_lack() -> None:
    reader = read([event("a"), b"", event("b"), b"", b"data: [DONE]"])
    assert reader.tokens == 2


def test_a_completion_of_no_text_is_an_answer() -> None:
    assert read([b"data: [DONE]", b""]).text_times == []


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([], "stream.cut"),
        ([event("a"), b""], "stream.cut"),
        ([event("a"), b"", b"data: [DON"], "malformed.json"),
        ([b"data: {", b""], "malformed.json"),
        ([b"data: 1", b""], "malformed.json"),
        ([b'data: {"id": 1}', b""], "malformed.event"),
        ([b'data: {"error": {"code": "engine"}}', b"", b"data: [DONE]", b""], "stream.error"),
        ([b"data: [DONE]", b"", event("late"), b""], "stream.after_done"),
        ([event(usage={"completion_tokens": 11}), b"", b"data: [DONE]", b""], "malformed.usage"),
    ],
)
def test_a_stream_that_breaks_the_protocol_is_malformed(lines: list[bytes], code: str) -> None:
    with pytest.raises(Malformed) as caught:
        read(lines)
    assert caught.value.code == code


def test_retry_after_is_seconds_or_a_date() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    past = format_datetime(datetime.now(UTC) - timedelta(seconds=60), usegmt=True)
    assert read_retry_after("3") == 3.0
    assert 50 < (read_retry_after(soon) or 0) <= 60
    assert read_retry_after(past) == 0.0
    for value in (None, "", "soon", "-1", "1.5", "²"):
        assert read_retry_after(value) is None


def test_server_timing_keeps_the_stages_that_have_a_duration() -> None:
    assert read_server_timing('total;dur=12.5, queue;desc="in line";dur=3, cache;desc=hit, bad;dur=x') == {
        "total": 12.5,
        "queue": 3.0,
    }
    assert read_server_timing(None) == {}


def test_an_error_body_gives_its_code_and_message_and_any_other_its_beginning() -> None:
    assert read_error(b'{"error": {"type": "t", "code": "c", "message": "m"}}') == ("c", "m")
    assert read_error(b'{"error": {"type": "t", "message": "m"}}') == ("t", "m")
    assert read_error(b"<h1>\n  Bad Gateway") == (None, "<h1> Bad Gateway")
    assert read_error(b'{"error": "text"}') == (None, '{"error": "text"}')
