"""Results as Markdown: the bars, and a table for each section."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.bar import Bar, Results, lines
from benchmarks.figures import PEERS_PLOT, RESULTS, Result, machine
from benchmarks.generation.tables import GENERATION_TABLES
from benchmarks.markdown import markdown, spread

MET = {True: "yes", False: "**no**", None: ""}


def bars_table(results: Results, bars: Sequence[Bar]) -> str:
    """Figure, bar, measured, met."""
    rows = [(line.figure, line.bar, line.measured, MET[line.met]) for line in lines(results, bars)]
    return markdown(("figure", "bar", "measured", "met"), rows)


def rows_table(result: Result) -> str:
    """Throughput and latency of every contestant at every number of clients."""
    rows = [
        (
            name,
            row["precision"],
            clients,
            spread(its["per_s"]),
            spread(its["p50_ms"], 1),
            spread(its["p99_ms"]),
            str(its["failures"]),
        )
        for name, row in result["rows"].items()
        for clients, its in row["clients"].items()
    ]
    return markdown(("server", "precision", "clients", "pairs/s", "p50 ms", "p99 ms", "failures"), rows)


def peers_table(result: Result) -> str:
    """Every contestant, the raw limits, and who is missing."""
    raw = [(name, spread(its["per_s"]), spread(its["p50_ms"], 1)) for name, its in result["raw"].items()]
    tuning = [(name, row["tuning"]) for name, row in result["rows"].items()]
    parts = [
        f"![pairs a second of every server](../{RESULTS / PEERS_PLOT})",
        rows_table(result),
        markdown(("in process", "pairs/s, sorted batches of 32", "p50 of one pair, ms"), raw),
        markdown(("server", "tuned"), tuning),
    ]
    parts += [f"Left out: {name}. {why}" for name, why in result["failed"].items()]
    return "\n\n".join(parts)


def rerank_table(result: Result) -> str:
    """Served beside raw."""
    rows = [
        ("served, documents/s", spread(result["documents_per_s"])),
        ("raw, streams of one thread", spread(result["raw"]["streams"])),
        ("raw, one session of all cores", spread(result["raw"]["session"])),
        ("p50 of a request, ms", spread(result["request"]["p50_ms"])),
        ("p99 of a request, ms", spread(result["request"]["p99_ms"])),
        ("failures", str(result["failures"])),
    ]
    return markdown((result["what"], ""), rows)


def overload_table(result: Result) -> str:
    """The three phases side by side."""
    phases = {"before, closed loop": "saturated", "flood, open loop": "flood", "after, closed loop": "after"}
    rows = []
    for title, key in phases.items():
        its = result[key]
        told = ", ".join(f"{count} x {status}" for status, count in sorted(its["statuses"].items()))
        latencies = [f"{its[name]:.0f}" if its[name] is not None else "" for name in ("p50_ms", "p99_ms", "max_ms")]
        rows.append((title, told, *latencies, f"{its['driver_cpu_share']:.2f}"))
    table = markdown(("phase", "answers", "p50 of 200s, ms", "p99", "max", "driver's share of a core"), rows)
    behind = f"The driver was at most {result['flood']['furthest_behind_ms']:.0f} ms behind its schedule."
    return f"{result['what']}; deadline {result['deadline_ms']} ms.\n\n{table}\n\n{behind}"


def disconnects_table(result: Result) -> str:
    """The living, and what the dead cost."""
    rows = [
        ("the living alone, requests/s", spread(result["alone_per_s"])),
        ("half of all while nobody leaves, requests/s", spread(result["half_per_s"])),
        ("the living beside leavers, requests/s", spread(result["beside_per_s"])),
        ("share of that half", spread(result["share_of_half"], 2)),
        ("share of alone", spread(result["share_of_alone"], 2)),
        ("share of computed tokens whose client had left", spread(result["spent_on_the_dead"], 3)),
        ("left before an answer", str(result["left"])),
    ]
    return markdown((result["what"], ""), rows)


def coldstart_table(result: Result) -> str:
    """Phases in their order."""
    rows = [(name, spread(its, 2)) for name, its in result["phases_s"].items()]
    rows += [
        ("**first 200**", spread(result["first_200_s"], 2)),
        ("memory of all processes, MiB", spread(result["rss_mb"])),
    ]
    return markdown(("phase", "s"), rows)


def workers_table(result: Result) -> str:
    """Both servers."""
    return rows_table(result)


TABLES = {
    "peers": peers_table,
    "rerank": rerank_table,
    "overload": overload_table,
    "disconnects": disconnects_table,
    "coldstart": coldstart_table,
    "workers": workers_table,
    **GENERATION_TABLES,
}


def section_block(section: str, results: Results) -> str:
    """A section's table with the run that it comes from."""
    result = results.get(section)
    if result is None:
        return f"Not run yet: `python -m benchmarks {section}`."
    where = f"{machine(result)}; commit {result['commit'][:12]}, {result['ended']}; `{result['command']}`."
    return f"{TABLES[section](result)}\n\n{where}"
