"""The driver reads streams as they come: cut anywhere, refused, broken off; and what its stamps mean."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.generation.streams import Exchange, Reader
from benchmarks.generation.timings import gaps_between, goodput_per_s, percentile, timing, tokens_per_s

pytestmark = pytest.mark.unit
MARK = b'"text":'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(value: object) -> bytes:
    return chunk(b"data: " + json.dumps(value).encode() + b"\n\n")


TOKEN = event({"choices": [{"index": 0, "text": " w1", "finish_reason": None}]})
USAGE = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}})
WHOLE = HEAD + TOKEN * 3 + USAGE + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


@given(st.lists(st.integers(1, len(WHOLE) - 1), unique=True).map(sorted))
def test_a_stream_is_read_whatever_the_pieces(cuts: list[int]) -> None:
    exchange = Exchange(client=0, due_s=0.0)
    reader = Reader(MARK, exchange)
    edges = [0, *cuts, len(WHOLE)]
    pieces = [WHOLE[start:end] for start, end in itertools.pairwise(edges)]
    ended = [reader.take(piece, float(number)) for number, piece in enumerate(pieces)]
    assert ended == [False] * (len(pieces) - 1) + [True]
    assert (exchange.status, exchange.tokens, exchange.finished) == (200, 2, True)
    assert len(exchange.arrivals) == 3  # the third is the finish: usage counts two tokens
    assert exchange.arrivals == sorted(exchange.arrivals)


def test_a_stream_that_breaks_off_is_not_finished() -> None:
    exchange = Exchange(client=0, due_s=0.0)
    reader = Reader(MARK, exchange)
    assert not reader.take(HEAD + TOKEN, 1.0)
    assert reader.take(b"", 2.0)
    assert (exchange.finished, exchange.ended_s, exchange.arrivals) == (False, 2.0, [1.0])


def test_a_refusal_says_when_to_come_back() -> None:
    exchange = Exchange(client=0, due_s=0.0)
    answer = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 2\r\n\r\n{}"
    assert Reader(MARK, exchange).take(answer, 0.5)
    assert (exchange.status, exchange.retry_after, exchange.finished) == (429, True, True)
    assert timing(exchange_row(exchange)).arrivals == ()


def exchange_row(exchange: Exchange) -> dict[str, object]:
    return {name: getattr(exchange, name) for name in Exchange.__dataclass_fields__}


def answered(due_s: float, arrivals: list[float], client: int = 0) -> dict[str, object]:
    whole = Exchange(client, due_s, 200, [*arrivals, arrivals[-1] + 9], arrivals[-1] + 9, len(arrivals), True)
    return exchange_row(whole)


def test_events_after_the_last_token_are_no_tokens() -> None:
    one = timing(answered(1.0, [2.0, 3.0, 5.0]))
    assert one.arrivals == (2.0, 3.0, 5.0)
    assert one.ttft_s == 1.0
    assert one.gaps_s == [1.0, 2.0]


def test_throughput_runs_from_the_first_request_to_the_last_token() -> None:
    both = [timing(answered(1.0, [2.0, 3.0])), timing(answered(2.0, [4.0, 5.0]))]
    assert tokens_per_s(both) == 4 / 4.0


def test_goodput_counts_who_was_begun_in_time_and_ended_in_the_window() -> None:
    good, late, unended = (timing(answered(0.0, first)) for first in ([1.0], [2.5], [1.5]))
    refused = timing(exchange_row(Exchange(0, 0.0, 429)))
    # Each ends nine seconds after its only token.
    assert goodput_per_s([good, late, unended, refused], 2.0, 10.2) == 1 / 10.2


def test_a_gap_counts_where_it_touches_the_span() -> None:
    stalled = timing(answered(0.0, [1.0, 2.0, 6.0, 7.0]))
    # The stall began before the span and ends after it: it is the one that matters.
    assert gaps_between([stalled], 3.0, 5.0) == [4.0]


def test_percentiles() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([1.0, 2.0], 0.99) == 2.0
    with pytest.raises(ValueError, match="no value"):
        percentile([], 0.5)
