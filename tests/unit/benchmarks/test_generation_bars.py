"""The bars of generation: what decides is the worst row, a missing peer is not beaten, and tables show both."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.bar import Line, lines
from benchmarks.figures import figure
from benchmarks.generation.bars import GENERATION_BARS
from benchmarks.generation.tables import decode_table, goodput_table, overload_table

pytestmark = pytest.mark.unit


def row(name: str, model: str, precision: str, one: float, eight: float, served: bool = True) -> dict[str, Any]:
    streams = {"1": {"per_s": figure([one, one])}, "8": {"per_s": figure([eight, eight])}}
    head = {"name": name, "model": model, "precision": precision, "served": served, "tuning": "none"}
    return {**head, "streams": streams}


@pytest.fixture
def decode() -> dict[str, Any]:
    rows = [
        row("raw", "gpt2", "int8", 100, 400, served=False),
        row("sluice", "gpt2", "int8", 95, 360),
        row("llama.cpp server", "gpt2", "int8", 90, 300),
        row("CTranslate2 raw", "gpt2", "int8", 99, 500, served=False),
        row("raw", "gpt2", "fp32", 50, 200, served=False),
        row("sluice", "gpt2", "fp32", 47, 180),
        row("transformers serve", "gpt2", "fp32", 30, 100),
    ]
    labels = {f"{each['name']}, {each['model']} {each['precision']}": each for each in rows}
    return {"what": "prompts", "rows": labels, "failed": {"onnxruntime-genai raw, llama fp32": "it did not start"}}


def line(results: dict[str, Any], start: str) -> Line:
    return next(line for line in lines(results, GENERATION_BARS) if line.figure.startswith(f"generation: {start}"))


def test_without_results_nothing_is_met() -> None:
    assert all(line.met is None and "not measured" in line.measured for line in lines({}, GENERATION_BARS))


def test_the_worst_row_decides(decode: dict[str, Any]) -> None:
    assert line({"decode": decode}, "1 stream over HTTP").met is True
    decode["rows"]["sluice, gpt2 fp32"] = row("sluice", "gpt2", "fp32", 44, 180)
    worst = line({"decode": decode}, "1 stream over HTTP")
    assert worst.met is False
    assert worst.measured == "0.88 R1 (gpt2 int8 0.95, gpt2 fp32 0.88)"


def test_transformers_must_be_beaten_by_every_precision(decode: dict[str, Any]) -> None:
    over = line({"decode": decode}, "8 streams, over transformers")
    assert (over.met, over.measured) == (False, "1.80 x (gpt2 int8 3.60, gpt2 fp32 1.80)")


def test_only_servers_are_peers_that_must_be_beaten(decode: dict[str, Any]) -> None:
    assert line({"decode": decode}, "8 streams, over peers served in int8").met is True
    beside = line({"decode": decode}, "8 streams over HTTP, over raw engines in int8")
    assert (beside.met, beside.measured.split(" ")[0]) == (None, "0.72x")


def test_a_peer_that_failed_is_not_beaten(decode: dict[str, Any]) -> None:
    del decode["rows"]["llama.cpp server, gpt2 int8"]
    assert line({"decode": decode}, "8 streams, over peers served in int8").met is None


def test_int8_over_fp32(decode: dict[str, Any]) -> None:
    assert line({"decode": decode}, "int8 over fp32, 1 stream").met is True
    decode["rows"]["sluice, gpt2 int8"] = row("sluice", "gpt2", "int8", 84, 200)
    assert line({"decode": decode}, "int8 over fp32, 1 stream").met is False
    assert line({"decode": decode}, "int8 over fp32, 8 streams").met is False


def arrivals(**changed: float) -> dict[str, Any]:
    values = {
        "ttft_ms": 90.0,
        "prefill_ms": 50.0,
        "step_ms": 20.0,
        "ttft_beyond_prefill_steps": 2.0,
        "others_p50_ms": 20.0,
        "others_p99_ms": 40.0,
        "long_stall_steps": 3.0,
        "long_stall_ms": 60.0,
        "long_ttft_ms": 1500.0,
        "long_prefill_ms": 1300.0,
        **changed,
    }
    return {"arrivals": {"figures": {name: figure([value]) for name, value in values.items()}}}


def test_newcomers() -> None:
    starts = ("a ninth arrives: its", "a ninth arrives: gaps", "a prompt of 900")
    assert [line(arrivals(), start).met for start in starts] == [True] * 3
    assert line(arrivals(ttft_beyond_prefill_steps=2.1), starts[0]).met is False
    assert line(arrivals(others_p99_ms=41.0), starts[1]).met is False
    assert line(arrivals(long_stall_steps=3.1), starts[2]).met is False


def flood(**changed: Any) -> dict[str, Any]:
    phase = {"statuses": {"200": 90, "429": 200}, "cut": 0, "without_retry_after": 0, "ttft_p50_ms": 9.0}
    phase |= {"ttft_p99_ms": 9.0, "driver_cpu_share": 0.1}
    rss = {"rss_second_quarter_mb": 100.0, "rss_last_quarter_mb": 102.0}
    named = {"what": "many", "row": "gpt2-int8", "saturated_per_s": 10.0, "answered_per_s": 9.0}
    return {"generation-overload": {**named, "before": phase, "flood": phase | changed, "after": phase, **rss}}


def test_overload() -> None:
    assert [each.met for each in lines(flood(), GENERATION_BARS) if "3x overload" in each.figure] == [True] * 3
    assert line(flood(statuses={"200": 1, "503": 1}), "3x overload, 60 s: answers").met is False
    assert line(flood(statuses={"200": 1, "broken": 1}), "3x overload, 60 s: answers").met is False
    assert line(flood(without_retry_after=1), "3x overload, 60 s: answers").met is False
    assert line(flood(cut=1), "3x overload: streams").met is False


def test_tables_show_what_is_there_and_who_is_missing(decode: dict[str, Any]) -> None:
    table = decode_table(decode)
    assert "| sluice, gpt2 int8 | 8 | 360 (360-360) |" in table
    assert "Left out: onnxruntime-genai raw, llama fp32. it did not start" in table
    assert "| flood, open loop | 90 x 200, 200 x 429 | 0 |" in overload_table(flood()["generation-overload"])
    way = {
        name: figure([1.0]) for name in ("goodput_per_s", "share_within", "ttft_p50_ms", "ttft_p99_ms", "tokens_per_s")
    }
    both = {"continuous": {**way, "refused": 0}, "static_batching": {**way, "refused": 0}}
    named = {"what": "32 clients", "row": "gpt2-int8", "static": "in process", "ttft_limit_s": 2.0}
    assert "static, in process" in goodput_table({**named, **both, "load": 0.9, "capacity_per_s": 2.0})
