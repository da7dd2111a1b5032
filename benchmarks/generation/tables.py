"""The tables of the sections about generation."""

from __future__ import annotations

from typing import Any

from benchmarks.figures import DECODE_PLOT, RESULTS, Result
from benchmarks.markdown import markdown, spread


def decode_table(result: Result) -> str:
    """Every row, who is missing, and how each is tuned."""
    rows = [
        (label, streams, spread(its["per_s"]), *_latencies(its), _share(its))
        for label, row in result["rows"].items()
        for streams, its in row["streams"].items()
    ]
    head = ("row", "streams", "tokens/s", "TTFT p50 ms", "gap p50 ms", "gap p99 ms", "driver's share of a core")
    tuning = {(row["name"], row["precision"]): row["tuning"] for row in result["rows"].values()}
    parts = [
        f"![tokens a second of every server and engine](../{RESULTS / DECODE_PLOT})",
        markdown(head, rows),
        markdown(("", "precision", "tuned"), [(*who, how) for who, how in tuning.items()]),
    ]
    return "\n\n".join([*parts, *(f"Left out: {label}. {why}" for label, why in result["failed"].items())])


def _latencies(its: dict[str, Any]) -> list[str]:
    return [spread(its[name], 1) if name in its else "" for name in ("ttft_ms", "gap_p50_ms", "gap_p99_ms")]


def _share(its: dict[str, Any]) -> str:
    return spread(its["driver_cpu_share"], 2) if "driver_cpu_share" in its else ""


def arrivals_table(result: Result) -> str:
    """All figures of the two windows."""
    names = {
        "ttft_ms": "newcomer's TTFT, ms",
        "prefill_ms": "its prefill alone, ms",
        "step_ms": "decode step of the streams, ms",
        "ttft_beyond_prefill_steps": "TTFT less prefill, in steps",
        "others_p50_ms": "gaps of the streams while newcomers come, p50, ms",
        "others_p99_ms": "p99",
        "long_prefill_ms": "prefill of the long prompt alone, ms",
        "long_ttft_ms": "its TTFT, ms",
        "long_stall_ms": "longest gap of a stream meanwhile, ms",
        "long_stall_steps": "the same in steps",
        "driver_cpu_share": "driver's share of a core",
    }
    rows = [(title, spread(result["figures"][name], 2)) for name, title in names.items()]
    return markdown((f"{result['what']}; {result['row']}", ""), rows)


def goodput_table(result: Result) -> str:
    """Both ways of batching side by side."""
    ways = {"continuous, over HTTP": result["continuous"], f"static, {result['static']}": result["static_batching"]}
    rows = [
        (
            name,
            spread(its["goodput_per_s"], 2),
            spread(its["share_within"], 2),
            spread(its["ttft_p50_ms"]),
            spread(its["ttft_p99_ms"]),
            spread(its["tokens_per_s"]),
            str(its["refused"]),
        )
        for name, its in ways.items()
    ]
    limit = f"TTFT <= {result['ttft_limit_s']:.0f} s"
    head = (f"{result['what']}; {result['row']}", f"requests/s with {limit}", "their share", "TTFT p50 ms", "p99 ms")
    table = markdown((*head, "tokens/s", "refused"), rows)
    return f"{table}\n\nOffered: {result['load']:.0%} of {result['capacity_per_s']:.2f} requests/s."


def precision_table(result: Result) -> str:
    """Perplexity."""
    rows = [(name, f"{value:.4f}") for name, value in result["perplexity"].items()]
    rows.append(("worse by", f"{result['worse_by']:+.3%}"))
    return markdown((result["what"], f"{result['tokens']} tokens"), rows)


def prefix_table(result: Result) -> str:
    """TTFT with and without something to share."""
    rows = [
        ("TTFT p50, one prefix for all, ms", spread(result["shared_ttft_ms"])),
        ("TTFT p50, a prefix for each, ms", spread(result["distinct_ttft_ms"])),
        ("ratio", spread(result["ratio"], 2)),
    ]
    return markdown((f"{result['what']}; {result['row']}", ""), rows)


def overload_table(result: Result) -> str:
    """The three phases side by side."""
    phases = {"before, closed loop": "before", "flood, open loop": "flood", "after, closed loop": "after"}
    rows = []
    for title, name in phases.items():
        its = result[name]
        told = ", ".join(f"{count} x {status}" for status, count in sorted(its["statuses"].items()))
        ttft = [f"{its[which]:.0f}" for which in ("ttft_p50_ms", "ttft_p99_ms")]
        rows.append((title, told, str(its["cut"]), *ttft, f"{its['driver_cpu_share']:.2f}"))
    head = ("phase", "answers", "cut", "TTFT p50 of 200s, ms", "p99", "driver's share of a core")
    rates = f"saturated at {result['saturated_per_s']:.1f}/s, answered {result['answered_per_s']:.1f}/s in the flood"
    return f"{result['what']}; {result['row']}; {rates}.\n\n{markdown(head, rows)}"


GENERATION_TABLES = {
    "decode": decode_table,
    "arrivals": arrivals_table,
    "goodput": goodput_table,
    "precision": precision_table,
    "prefix": prefix_table,
    "generation-overload": overload_table,
}
