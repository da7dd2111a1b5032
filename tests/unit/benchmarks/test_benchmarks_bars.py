"""Bars: read from result files, decided round by round, and never met by what is missing."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.bar import Line, lines, ratio
from benchmarks.bars import BARS
from benchmarks.figures import figure
from benchmarks.matching_bars import MATCHING_BARS
from benchmarks.tables import bars_table, peers_table, section_block

pytestmark = pytest.mark.unit


def row(precision: str, per_s: list[float], p50_ms: float = 10.0) -> dict[str, Any]:
    its = {"per_s": figure(per_s), "p50_ms": figure([p50_ms] * len(per_s)), "p99_ms": figure([50.0]), "failures": 0}
    return {"precision": precision, "tuning": "none", "clients": {clients: its for clients in ("1", "16", "64")}}


@pytest.fixture
def peers() -> dict[str, Any]:
    raw = {"per_s": figure([500, 400]), "p50_ms": figure([5.0, 5.0])}
    return {
        "limit": figure([500.0, 400.0]),
        "raw": {"int8 streams": raw, "int8 session": raw},
        "rows": {
            "sluice int8": row("int8", [450, 360], 6.0),
            "sluice fp32": row("fp32", [200, 160]),
            "infinity": row("fp32", [100, 90], 30.0),
            "bentoml batchable int8": row("int8", [440, 380]),
        },
        "failed": {"litserve": "it did not start"},
        "machine": {"cores": 2, "cpu": "a processor", "python": "3.11"},
        "commit": "0123456789abcdef",
        "ended": "today",
        "command": "python -m benchmarks peers",
    }


def line(results: dict[str, Any], start: str) -> Line:
    return next(line for line in lines(results, BARS) if line.figure.startswith(start))


def test_without_results_nothing_is_met_and_every_bar_says_so() -> None:
    found = lines({}, BARS)
    assert len(found) == len(BARS)
    assert all(line.met is None and "not measured" in line.measured for line in found)


def test_ratios_are_of_the_same_round() -> None:
    # The machine was twice as slow in the second round; the ratio of the medians would be 1.2.
    assert ratio([90, 45, 90], [100, 50, 75]) == pytest.approx(0.9)


def test_the_share_of_the_limit(peers: dict[str, Any]) -> None:
    assert line({"peers": peers}, "served single pairs, 64 clients").measured == "0.90 R"
    peers["rows"]["sluice int8"] = row("int8", [390, 310])
    assert line({"peers": peers}, "served single pairs, 64 clients").met is False


def test_above_every_peer_names_the_nearest(peers: dict[str, Any]) -> None:
    every = line({"peers": peers}, "served single pairs, 64 clients, over every")
    assert every.met is False  # (450/440 + 360/380) / 2 < 1
    assert "bentoml batchable int8; 2 peers" in every.measured
    same_precision = line({"peers": peers}, "fp32 over every peer in fp32, 16")
    assert same_precision.met is True
    assert "infinity; 1 peers" in same_precision.measured


def test_a_peer_that_failed_is_not_beaten(peers: dict[str, Any]) -> None:
    del peers["rows"]["infinity"]
    peers["failed"]["infinity"] = "ended with 1"
    over = line({"peers": peers}, "served single pairs, 64 clients, over infinity")
    assert (over.met, over.measured) == (None, "not measured: infinity: ended with 1")


def test_latency_bars(peers: dict[str, Any]) -> None:
    assert line({"peers": peers}, "p50 at 1 client over the in").met is True  # 6 - 5 <= 2
    assert line({"peers": peers}, "p50 at 1 client over infinity").met is True  # 6 / 30 <= 0.25
    peers["rows"]["sluice int8"] = row("int8", [450, 360], 7.6)
    assert line({"peers": peers}, "p50 at 1 client over the in").met is False
    assert line({"peers": peers}, "p50 at 1 client over infinity").met is False


def overload(**flood: Any) -> dict[str, Any]:
    whole = {"statuses": {"200": 900, "429": 2000}, "without_retry_after": 0, "unanswered": 0, "p99_ms": 900.0, **flood}
    rss = {"rss_second_quarter_mb": 100.0, "rss_last_quarter_mb": 102.0, "deadline_ms": 1000}
    return {"overload": {"flood": whole, "saturated": {"per_s": 100.0}, "goodput_per_s": 95.0, **rss}}


def test_overload_bars() -> None:
    assert [line.met for line in lines(overload(), BARS) if line.figure.startswith("3x")] == [True] * 4
    for broken in (
        {"statuses": {"200": 900, "503": 1}},
        {"statuses": {"200": 900, "broken": 1}},
        {"without_retry_after": 1},
        {"unanswered": 1},
    ):
        assert line(overload(**broken), "3x overload, 60 s: answers").met is False
    assert line(overload(p99_ms=1001.0), "3x overload: p99").met is False
    assert line(overload(p99_ms=None), "3x overload: p99").met is False


def test_the_better_number_of_workers_must_be_the_default() -> None:
    def results(two: list[float]) -> dict[str, Any]:
        rows = {"sluice default": row("int8", [100, 100]), "sluice two workers": row("int8", two)}
        return {"workers": {"workers": {"sluice default": 1, "sluice two workers": 2}, "rows": rows}}

    assert line(results([90, 90]), "two workers").met is True
    assert line(results([110, 110]), "two workers").met is False


def test_tables_show_what_is_there_and_who_is_missing(peers: dict[str, Any]) -> None:
    table = peers_table(peers)
    assert "| sluice int8 | int8 | 64 | 405 (360-450) |" in table
    assert "Left out: litserve. it did not start" in table
    assert "| **no** |" in bars_table({"peers": peers}, MATCHING_BARS)
    assert section_block("peers", {}) == "Not run yet: `python -m benchmarks peers`."
    assert "commit 0123456789ab, today" in section_block("peers", {"peers": peers})
