"""The bars of matching."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.bar import FLAT, Bar, Measured, Results, memory, ratio

OURS, OURS_FP32, INFINITY = "sluice int8", "sluice fp32", "infinity"
BUSY = "64"
UNHARMED = 0.95


def _row(results: Results, name: str, clients: str, what: str, section: str = "peers") -> list[float]:
    rounds: list[float] = results[section]["rows"][name]["clients"][clients][what]["rounds"]
    return rounds


def _median(figure: dict[str, Any]) -> float:
    return float(figure["median"])


def _limit(results: Results) -> Measured:
    limit = results["peers"]["limit"]
    return f"{limit['median']:.0f} pairs/s ({limit['min']:.0f} to {limit['max']:.0f})", None


def _of_limit(results: Results) -> Measured:
    reached = ratio(_row(results, OURS, BUSY, "per_s"), results["peers"]["limit"]["rounds"])
    return f"{reached:.2f} R", reached >= 0.80


def _over_infinity(results: Results) -> Measured:
    times = ratio(_row(results, OURS, BUSY, "per_s"), _row(results, INFINITY, BUSY, "per_s"))
    return f"{times:.1f}x", times >= 3


def _above(results: Results, ours: str, clients: str, precision: str | None) -> Measured:
    rows = results["peers"]["rows"]
    peers = {
        name: ratio(_row(results, ours, clients, "per_s"), _row(results, name, clients, "per_s"))
        for name, row in rows.items()
        if not name.startswith("sluice") and precision in (None, row["precision"])
    }
    if not peers:
        raise KeyError("no peer")
    nearest = min(peers, key=lambda name: peers[name])
    return f"{peers[nearest]:.2f}x of the nearest, {nearest}; {len(peers)} peers", peers[nearest] > 1


def _added_latency(results: Results) -> Measured:
    added = _row(results, OURS, "1", "p50_ms")
    raw = results["peers"]["raw"]
    over = statistics.median(a - b for a, b in zip(added, raw["int8 streams"]["p50_ms"]["rounds"], strict=False))
    session = _median(raw["int8 session"]["p50_ms"])
    text = f"{over:+.1f} ms on {_median(raw['int8 streams']['p50_ms']):.1f} ms on one core"
    return f"{text} (a lone pair on all cores takes {session:.1f} ms in process)", over <= 2


def _latency_of_infinity(results: Results) -> Measured:
    share = ratio(_row(results, OURS, "1", "p50_ms"), _row(results, INFINITY, "1", "p50_ms"))
    return f"{share:.2f} of it", share <= 0.25


def _rerank(results: Results) -> Measured:
    reached = ratio(results["rerank"]["documents_per_s"]["rounds"], results["rerank"]["limit"]["rounds"])
    return f"{reached:.2f} R", reached >= 0.92


def _statuses(results: Results) -> Measured:
    flood = results["overload"]["flood"]
    only = set(flood["statuses"]) <= {"200", "429"}
    clean = only and not flood["without_retry_after"] and not flood["unanswered"]
    told = ", ".join(f"{count} x {status}" for status, count in sorted(flood["statuses"].items()))
    return f"{told}; {flood['without_retry_after']} of the 429 without it, {flood['unanswered']} unanswered", clean


def _goodput(results: Results) -> Measured:
    overload = results["overload"]
    reached = overload["goodput_per_s"] / overload["saturated"]["per_s"]
    return f"{reached:.2f} of {overload['saturated']['per_s']:.0f}/s", reached >= 0.9


def _accepted(results: Results) -> Measured:
    overload = results["overload"]
    p99 = overload["flood"]["p99_ms"]
    if p99 is None:
        return "nothing was accepted", False
    return f"{p99:.0f} ms, deadline {overload['deadline_ms']} ms", p99 <= overload["deadline_ms"]


def _dead(results: Results) -> Measured:
    share = _median(results["disconnects"]["spent_on_the_dead"])
    return f"{share:.1%} of the tokens; {results['disconnects']['left']} left", share < 0.05


def _living(results: Results) -> Measured:
    share, alone = (_median(results["disconnects"][f"share_of_{what}"]) for what in ("half", "alone"))
    return f"{share:.2f} of what they have when nobody leaves, {alone:.2f} of it alone", share >= UNHARMED


def _coldstart(results: Results) -> Measured:
    first = results["coldstart"]["first_200_s"]
    return f"{first['median']:.1f} s ({first['min']:.1f} to {first['max']:.1f})", first["median"] <= 4


def _torch(results: Results) -> Measured:
    with_torch = results["coldstart"]["processes_with_torch"]
    return f"{with_torch} of {results['coldstart']['processes']} processes map libtorch", with_torch == 0


def _workers(results: Results) -> Measured:
    its = results["workers"]
    names = {count: name for name, count in its["workers"].items()}
    ratios = {
        clients: ratio(
            _row(results, names[2], clients, "per_s", "workers"), _row(results, names[1], clients, "per_s", "workers")
        )
        for clients in its["rows"][names[1]]["clients"]
    }
    told = ", ".join(f"{value:.2f} at {clients}" for clients, value in ratios.items())
    default_is_one = names[1] == "sluice default"
    better_is_one = statistics.geometric_mean(ratios.values()) <= 1
    return f"two give {told}; the default is {1 if default_is_one else 2}", better_is_one == default_is_one


MATCHING_BARS = (
    Bar("raw in-process limit R: int8, sorted, batch 32, all cores", "reference", ("peers",), _limit),
    Bar("served single pairs, 64 clients", ">= 0.80 R", ("peers",), _of_limit),
    Bar("served single pairs, 64 clients, over infinity", ">= 3x", ("peers",), _over_infinity),
    Bar("served single pairs, 64 clients, over every peer", "> 1x", ("peers",), lambda r: _above(r, OURS, BUSY, None)),
    Bar("rerank, 1 query x 32 documents, 8 clients", ">= 0.92 R", ("rerank",), _rerank),
    Bar("p50 at 1 client over the in-process p50", "<= 2 ms more", ("peers",), _added_latency),
    Bar("p50 at 1 client over infinity's", "<= 1/4", ("peers",), _latency_of_infinity),
    *(
        Bar(
            f"fp32 over every peer in fp32, {clients} client{'s' * (clients != '1')}",
            "> 1x",
            ("peers",),
            lambda r, clients=clients: _above(r, OURS_FP32, clients, "fp32"),  # type: ignore[misc]
        )
        for clients in ("1", "16", "64")
    ),
    Bar("3x overload, 60 s: answers", "only 200, and 429 with Retry-After", ("overload",), _statuses),
    Bar("3x overload: goodput over saturated throughput", ">= 0.9", ("overload",), _goodput),
    Bar("3x overload: p99 of the accepted", "within the deadline", ("overload",), _accepted),
    Bar("3x overload: memory", f"flat: at most {FLAT:.0%} more", ("overload",), lambda r: memory(r["overload"])),
    Bar("half the clients leave: compute spent on them", "< 5 %", ("disconnects",), _dead),
    Bar("half the clients leave: throughput of the others", f"unharmed: >= {UNHARMED}", ("disconnects",), _living),
    Bar("process start to first 200, int8", "<= 4 s", ("coldstart",), _coldstart),
    Bar("torch in the server's processes", "none", ("coldstart",), _torch),
    Bar("two workers over one on two cores", "the better is the default", ("workers",), _workers),
)
