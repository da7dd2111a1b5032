"""The reports: complete in one file, safe with a server's texts, readable back; and the exit code they stand for."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.cli import exit_code
from loadtests.findings import findings
from loadtests.plots import Series, by_percentile, over_time, ticks
from loadtests.progress import Progress
from loadtests.report import format_ms, format_number, format_percent, read_results, render, write_report
from loadtests.results import Ending, Verdict
from loadtests.settings import Kind, RunSettings
from loadtests.slo import read_slo
from loadtests.summary import summarise

pytestmark = pytest.mark.unit


@pytest.fixture
def seen(samples: Any) -> list[Any]:
    streams = [
        samples.observation(Kind.COMPLETION, started=at, ttft_s=0.02, gaps_s=(0.01, 0.02), tokens=3) for at in range(5)
    ]
    return [*[samples.observation(started=at / 4, server_ms={"queue": 1.0}) for at in range(40)], *streams]


def failing_slo(folder: Path) -> Any:
    path = folder / "slo.yaml"
    path.write_text("version: 1\nrules: {match.p95_ms: {max: 1}, errors.share: {max: 0}, rerank.p50_ms: {max: 9}}")
    return read_slo(path)


class Page(HTMLParser):
    """Collects what a browser would fetch, and checks that elements are closed in order."""

    VOID = frozenset({"meta", "br", "circle", "line", "polyline"})

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [str(value) for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_html_report_is_one_file_that_fetches_nothing(tmp_path: Path, samples: Any, seen: list[Any]) -> None:
    html = render(samples.results_of([*seen, samples.failed(), samples.shed(None)], failing_slo(tmp_path)))
    page = Page()
    page.feed(html)
    assert page.fetched == []
    assert page.open == []
    assert "url(" not in html
    assert "@import" not in html
    assert "<script" not in html
    assert html.count("<svg") == 6  # two for match, four for completion


def test_the_verdict_is_said_first_with_every_rule_below(tmp_path: Path, samples: Any, seen: list[Any]) -> None:
    html = render(samples.results_of(seen, failing_slo(tmp_path)))
    assert "Fail: 2 of 3 rules violated" in html
    assert html.index("Fail: 2 of 3") < html.index("match.p95_ms") < html.index("Latency over time")
    assert html.count("✗ violated") == 2
    assert html.count("no data") >= 2
    assert "Not judged" in render(samples.results_of(seen))


def test_texts_of_the_server_are_escaped(samples: Any) -> None:
    html = render(samples.results_of([samples.failed(message="<script>alert(1)</script>")]))
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_a_run_that_saw_nothing_still_makes_a_report(samples: Any) -> None:
    html = render(samples.results_of([], measured_s=0.0, ending=Ending.INTERRUPTED))
    assert "Not judged" in html


def test_results_are_written_whole_and_read_back_as_they_were(tmp_path: Path, samples: Any, seen: list[Any]) -> None:
    results = samples.results_of(seen, failing_slo(tmp_path))
    paths = write_report(results, tmp_path)
    assert [path.name for path in paths] == ["results.json", "report.html"]
    assert read_results(paths[0]) == results
    assert {path.name for path in tmp_path.iterdir()} == {"slo.yaml", "results.json", "report.html"}


def test_the_summary_names_the_violated_rules_and_the_files(tmp_path: Path, samples: Any, seen: list[Any]) -> None:
    text = summarise(samples.results_of([*seen, samples.failed()], failing_slo(tmp_path)), [Path("a.json")])
    assert "VIOLATED match.p95_ms: 100 (at most 1)" in text
    assert "VIOLATED rerank.p50_ms: no data" in text
    assert "1x match http.500: broke" in text
    assert text.endswith("verdict: fail (a.json)")


@pytest.mark.parametrize(
    ("given_values", "failed", "code"),
    [
        ({"verdict": Verdict.PASS}, False, 0),
        ({"verdict": Verdict.NOT_JUDGED}, False, 0),
        ({"verdict": Verdict.FAIL}, False, 1),
        ({"verdict": Verdict.NOT_JUDGED, "ending": Ending.INTERRUPTED}, False, 130),
        ({"verdict": Verdict.FAIL, "ending": Ending.INTERRUPTED}, False, 1),
        ({"verdict": Verdict.NOT_JUDGED}, True, 3),
        ({"verdict": Verdict.FAIL}, True, 1),
    ],
)
def test_the_exit_code_follows_the_verdict(samples: Any, given_values: dict[str, Any], failed: bool, code: int) -> None:
    seen = [samples.failed()] if failed else [samples.observation()]
    assert exit_code(samples.results_of(seen, **given_values)) == code


def test_findings_say_what_limits_the_figures(samples: Any) -> None:
    settings = RunSettings(users={Kind.MATCH: 4, Kind.COMPLETION: 2}, host="http://example.org")
    seen = [samples.observation() for _ in range(100)]
    figures = samples.figures_of([*seen, samples.shed(None)], cpu_share=0.95)
    said = list(findings(settings, figures, Ending.INTERRUPTED, 3.0))
    assert len(said) == 4
    for part in ("interrupted after 3.0 of 30 s", "1 of 1 answers 429", "completion: no request", "95% of a core"):
        assert any(part in finding for finding in said), part
    local = settings.model_copy(update={"host": "http://[::1]:3000"})
    assert any("share one machine" in finding for finding in findings(local, figures, Ending.DURATION, 3.0))


@given(st.floats(1e-3, 1e7))
def test_ticks_are_few_round_and_reach_the_largest_value(largest: float) -> None:
    found = ticks(largest)
    assert found[0] == 0
    assert found[-1] >= largest * (1 - 1e-9)
    assert 2 <= len(found) <= 7
    assert found[-2] < largest


def test_a_second_without_data_breaks_the_line_and_points_stay_in_the_frame() -> None:
    svg = over_time([Series("p50", 1, [(0, 5.0), (1, 7.0), (2, None), (3, 9.0)])], "ms", 4.0)
    assert svg.count("<polyline") == 1
    assert svg.count("<circle") == 1
    tail = by_percentile([Series("latency", 1, [(0, 1.0), (99.99, 2.0), (100, 3.0)])], "ms")
    points = re.search(r'points="([^"]+)"', tail)
    assert points is not None
    assert all(0 <= float(x) <= 560 and 0 <= float(y) <= 250 for x, y in (p.split(",") for p in points[1].split()))


def test_numbers_are_shown_short_and_never_as_zero_when_they_are_not() -> None:
    assert [format_ms(value) for value in (None, 0.5, 12.34, 1234.5, 12_345.0)] == [
        "–",
        "0.5 ms",
        "12.3 ms",
        "1234 ms",
        "12.3 s",
    ]
    assert [format_number(value) for value in (None, 0.1234, 12.0, 14084.0)] == ["–", "0.123", "12", "14,084"]
    assert [format_percent(value) for value in (None, 0.0, 0.000001, 0.0123)] == ["–", "0 %", "<0.01 %", "1.23 %"]


def test_a_log_gets_plain_lines_a_few_seconds_apart(samples: Any) -> None:
    log = io.StringIO()
    progress = Progress(log)
    seen: list[Any] = []
    for second in range(1, 12):
        seen.append(samples.failed() if second == 8 else samples.observation())
        progress.show(float(second), 30.0, seen)
    lines = log.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0] == "    5/30 s  match 1.0/s p95 100 ms"
    assert lines[1] == "   10/30 s  match 0.8/s p95 100 ms  errors 1"
