"""From observations to figures, and which requests are measured at all."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.figures import distribution, error_rows, is_good, percentile
from loadtests.observations import Ledger, Window
from loadtests.settings import Kind
from loadtests.slo import RequestLimits, StreamLimits

pytestmark = pytest.mark.unit


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0, 100))
def test_percentiles_are_numpys(values: list[float], percent: float) -> None:
    assert percentile(sorted(values), percent) == pytest.approx(np.percentile(values, percent), rel=1e-9, abs=1e-9)


def test_an_empty_sample_has_no_distribution_and_one_value_is_all_its_points() -> None:
    assert distribution([]) is None
    one = distribution([5.0])
    assert one is not None
    assert {one.min, one.mean, one.p50, one.p99, one.max} == {5.0}


def test_the_figures_of_a_kind_count_only_what_was_answered_as_asked(samples: Any) -> None:
    seen = [
        samples.observation(latency_s=0.1, asked=3),
        samples.observation(latency_s=0.3, asked=1),
        samples.failed(),
        samples.shed(1.0),
    ]
    figures = samples.figures_of(seen, length_s=2.0)
    match = figures.kinds[Kind.MATCH]
    assert (match.requests, match.ok, match.errors, match.shed) == (4, 2, 1, 1)
    assert match.latency.max == pytest.approx(300)
    assert match.latency.count == 2
    assert match.requests_per_s == 1.0
    assert match.pairs_per_s == 2.0
    assert match.error_share == 0.25
    assert figures.totals.status_classes == {"2xx": 2, "4xx": 1, "5xx": 1}
    assert figures.totals.error_codes == {"http.500": 1}


def test_stream_figures_pool_the_gaps_and_take_tokens_from_usage(samples: Any) -> None:
    streams = [
        samples.observation(Kind.COMPLETION, latency_s=1.0, ttft_s=0.2, gaps_s=(0.1, 0.3), tokens=5),
        samples.observation(Kind.COMPLETION, latency_s=1.0, ttft_s=0.4, gaps_s=(), tokens=1),
        samples.observation(Kind.COMPLETION, latency_s=1.0, tokens=0),
    ]
    found = samples.figures_of(streams, length_s=2.0).kinds[Kind.COMPLETION]
    assert found.tokens_per_s == 3.0
    assert found.ttft.count == 2
    assert found.itl.mean == pytest.approx(200)
    assert found.tpot.count == 1
    assert found.tpot.max == pytest.approx(100)
    assert found.tokens_per_event == pytest.approx(6 / 4)


def test_goodput_counts_what_met_every_limit(samples: Any) -> None:
    fast, slow = samples.observation(latency_s=0.1), samples.observation(latency_s=0.3)
    limits = RequestLimits(latency_ms=200)
    assert [is_good(seen, limits) for seen in (fast, slow, samples.failed())] == [True, False, False]
    assert is_good(slow, None)
    stream = samples.observation(Kind.COMPLETION, latency_s=1.0, ttft_s=0.2, gaps_s=(0.1, 0.3), tokens=5)
    assert is_good(stream, StreamLimits(ttft_ms=200, tpot_ms=100.001))
    assert not is_good(stream, StreamLimits(ttft_ms=199))
    assert not is_good(stream, StreamLimits(tpot_ms=99))


def test_the_429s_that_did_not_say_when_to_come_back_are_counted(samples: Any) -> None:
    found = samples.figures_of([samples.shed(1.0), samples.shed(None), samples.shed(4.0)]).totals.shed
    assert (found.count, found.without_retry_after) == (3, 1)
    assert (found.retry_after_min_s, found.retry_after_max_s) == (1.0, 4.0)
    assert found.share == 1.0


def test_errors_are_grouped_by_cause_with_the_most_frequent_first(samples: Any) -> None:
    rows = error_rows(
        [
            samples.failed("transport.timeout", status=0),
            samples.failed(message="first"),
            samples.failed(message="second"),
            samples.shed(None),
        ]
    )
    assert [(row.code, row.count, row.message) for row in rows] == [
        ("http.500", 2, "first"),
        ("transport.timeout", 1, "broke"),
    ]


def test_the_timeline_has_every_second_and_stays_short_for_long_runs(samples: Any) -> None:
    seen = [samples.observation(started=0.5), samples.observation(started=2.5, latency_s=0.2)]
    found = samples.figures_of(seen, length_s=4.0).kinds[Kind.MATCH].timeline
    assert [second.requests for second in found] == [1, 0, 1, 0]
    assert found[1].p50_ms is None
    assert found[2].p50_ms == pytest.approx(200)
    assert len(samples.figures_of(seen, length_s=7200.0).kinds[Kind.MATCH].timeline) <= 120


def test_requests_are_measured_when_they_start_in_the_window_or_hang_through_all_of_it(samples: Any) -> None:
    ledger = Ledger(Window(max_requests=100))
    for started in (0.5, 1.0):
        assert ledger.begin(started)
    ledger.window.open(2.0)
    for started in (2.5, 3.5):
        assert ledger.begin(started)
    ledger.window.close(4.0)
    assert not ledger.begin(4.5)
    assert ledger.under_way == 4
    ledger.end(samples.observation(started=1.0, latency_s=1.5))  # began in the warm-up, ended in the window
    ledger.end(samples.observation(started=2.5))
    ledger.end(samples.observation(started=3.5, latency_s=9.0))  # ended long after the window
    ledger.end(samples.observation(started=0.5, latency_s=30.0))  # hung from before the window until after it
    assert [seen.started for seen in ledger.observations] == [2.5, 3.5, 0.5]
    assert ledger.under_way == 0
    assert ledger.window.length_s(99.0) == 2.0


def test_a_window_that_never_opened_measures_nothing(samples: Any) -> None:
    ledger = Ledger(Window(max_requests=100))
    assert ledger.begin(1.0)
    ledger.window.close(2.0)
    ledger.end(samples.observation(started=1.0, latency_s=5.0))
    assert ledger.observations == []


def test_the_window_closes_with_the_last_request_it_may_admit() -> None:
    window = Window(max_requests=3)
    window.open(0.0)
    admitted = list(itertools.takewhile(window.admit, (0.1, 0.2, 0.3, 0.4)))
    assert admitted == [0.1, 0.2, 0.3]
    assert window.closed_at == 0.3


def test_a_run_without_a_request_has_no_shares(samples: Any) -> None:
    figures = samples.figures_of([], length_s=0.0)
    assert figures.totals.error_share is None
    assert figures.kinds[Kind.MATCH].latency is None
    assert figures.kinds[Kind.MATCH].requests_per_s == 0.0
