"""What the drivers count and when they send, without a socket."""

from __future__ import annotations

import pytest

from benchmarks.connections import Answer, Tally, parse
from benchmarks.metrics import quarters, total
from benchmarks.openloop import Pace
from benchmarks.wrk import DriverFailed
from benchmarks.wrk import parse as parse_wrk
from demo.commands import StepFailed

pytestmark = pytest.mark.unit
RESULT = (
    'Running 3s test\nRESULT {"requests":100,"counted":60,"seconds":3.0,"p50_ms":1.5,"p99_ms":9.0,'
    '"status":2,"connect":1,"read":0,"write":0,"timeout":3}\n  100 requests in 3.00s\n'
)


def test_wrk_counts_answers_after_the_warm_up_and_every_failure() -> None:
    loop = parse_wrk(RESULT)
    assert loop.answers_per_s == pytest.approx(30)
    assert (loop.requests, loop.failures, loop.p50_ms, loop.p99_ms) == (100, 6, 1.5, 9.0)


def test_wrk_without_a_result_says_what_it_said() -> None:
    with pytest.raises(DriverFailed, match="unable to connect"):
        parse_wrk("", "unable to connect to 127.0.0.1:1 Connection refused")


def test_a_pace_is_kept_whatever_the_answers_do() -> None:
    pace = Pace(per_s=10, seconds=2)
    assert pace.total == 20
    assert [pace.arrived(at) for at in (0, 0.05, 0.1, 0.95, 1.9, 60)] == [1, 1, 2, 10, 20, 20]
    # Nothing is asked for before it is due, and all that is due is asked for.
    for at in (0.0, 0.33, 1.21):
        arrived = pace.arrived(at)
        assert pace.due_s(arrived - 1) <= at < pace.due_s(arrived)


def test_a_response_is_read_when_it_is_whole() -> None:
    data = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 2\r\nContent-Length: 2\r\n\r\n{}"
    for cut in range(len(data)):
        assert parse(data[:cut]) == (None, 0)
    assert parse(data + b"HTTP") == (Answer(429, True, b"{}"), len(data))
    assert parse(data.replace(b"Retry-After: 2\r\n", b""))[0] == Answer(429, False, b"{}")


def test_a_tally_counts_all_and_times_only_what_was_accepted() -> None:
    tally = Tally()
    for latency_s in (0.1, 0.2, 0.3):
        tally.add(Answer(200, False, b""), latency_s)
    tally.add(Answer(429, True, b""), 5)
    tally.add(Answer(429, False, b""), 5)
    tally.add(ConnectionResetError(), 5)
    assert tally.statuses == {"200": 3, "429": 2, "broken": 1}
    assert tally.without_retry_after == 1
    assert tally.percentile_ms(0.5) == pytest.approx(200)
    assert tally.percentile_ms(0.99) == pytest.approx(300)
    assert Tally().percentile_ms(0.99) is None


def test_a_counter_is_summed_over_its_labels() -> None:
    text = '# TYPE a_total counter\na_total{model="x"} 2.0\na_total{model="y"} 3.0\na_total_more 9.0\n'
    assert total(text, "a_total") == 5
    with pytest.raises(StepFailed, match="no b_total"):
        total(text, "b_total")


def test_memory_is_compared_after_the_warm_up() -> None:
    assert quarters([10, 20, 100, 100, 100, 100, 110, 110]) == (100, 110)
    assert quarters([7.0]) == (7.0, 7.0)
