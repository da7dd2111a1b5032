"""Writes a run down: results.json for machines and report.html, one file without links, for people."""

from __future__ import annotations

import os
from pathlib import Path

import jinja2

from loadtests.metrics import catalogue
from loadtests.plots import Series, by_percentile, over_time
from loadtests.results import Distribution, KindFigures, RunResults

TEMPLATE = Path(__file__).with_name("report.html.j2")


def write_report(results: RunResults, folder: Path) -> tuple[Path, Path]:
    """Write both files, each whole or not at all, and return their paths."""
    json_path, html_path = folder / "results.json", folder / "report.html"
    _replace(json_path, results.model_dump_json(indent=2) + "\n")
    _replace(html_path, render(results))
    return json_path, html_path


def read_results(path: Path) -> RunResults:
    """Read a results.json; raises pydantic.ValidationError when it is none of this schema."""
    return RunResults.model_validate_json(path.read_bytes())


def render(results: RunResults) -> str:
    """Return the HTML report of a run; everything that came from the server is escaped."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"ms": format_ms, "number": format_number, "percent": format_percent}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        run=results,
        plots={kind: _plots(found, results.measured_s) for kind, found in results.kinds.items()},
        durations={kind: _durations(found) for kind, found in results.kinds.items()},
        metrics=catalogue(),
    )


def format_ms(value: float | None) -> str:
    """Return milliseconds with three significant figures, seconds from ten seconds on, a dash for None."""
    if value is None:
        return "–"
    if value >= 10_000:
        return f"{value / 1000:.1f} s"
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def format_number(value: float | None) -> str:
    """Return a rate or a count, a dash for None."""
    if value is None:
        return "–"
    if value == int(value) or value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def format_percent(share: float | None) -> str:
    """Return a share as per cent; a share that is not 0 never reads as 0."""
    if share is None:
        return "–"
    if 0 < share < 0.0001:
        return "<0.01 %"
    return f"{share * 100:.3g} %"


def _durations(found: KindFigures) -> list[tuple[str, Distribution]]:
    named = [
        ("latency", found.latency),
        ("first text (TTFT)", found.ttft),
        ("between texts (ITL)", found.itl),
        ("per token (TPOT)", found.tpot),
        *((f"server: {stage}", stage_figures) for stage, stage_figures in found.server_stages.items()),
    ]
    return [(name, values) for name, values in named if values is not None]


def _plots(found: KindFigures, measured_s: float) -> list[tuple[str, list[Series], str]]:
    if found.latency is None:
        return []
    width_s = found.timeline[1].at_s if len(found.timeline) > 1 else measured_s
    middles = [(min(second.at_s + width_s / 2, measured_s), second) for second in found.timeline]
    times = [
        Series("p50", 1, [(at_s, second.p50_ms) for at_s, second in middles]),
        Series("p95", 2, [(at_s, second.p95_ms) for at_s, second in middles]),
        Series("slowest", 3, [(at_s, second.max_ms) for at_s, second in middles]),
    ]
    plots = [
        ("Latency over time, ms, by the second a request started in", times, over_time(times, "ms", measured_s)),
        _percentile_plot("Latency by percentile, ms", [("latency", found.latency)]),
    ]
    if found.ttft is not None:
        firsts = [Series("first text p50", 1, [(at_s, second.ttft_p50_ms) for at_s, second in middles])]
        plots.append(("Time to the first text over time, ms", firsts, over_time(firsts, "ms", measured_s)))
        plots.append(
            _percentile_plot(
                "First text and gaps between texts by percentile, ms",
                [("first text", found.ttft), ("between texts", found.itl)],
            )
        )
    return plots


def _percentile_plot(title: str, lines: list[tuple[str, Distribution | None]]) -> tuple[str, list[Series], str]:
    series = [
        Series(name, colour, values.curve) for colour, (name, values) in enumerate(lines, start=1) if values is not None
    ]
    return title, series, by_percentile(series, "ms")


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
