"""SLO files: what is refused and how it is said, how a run is judged, and that the documentation lists every metric."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from loadtests.errors import UsageError
from loadtests.metrics import catalogue
from loadtests.results import Verdict
from loadtests.settings import Kind
from loadtests.slo import judge, read_slo

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[3]


def slo_of(folder: Path, text: str) -> Any:
    path = folder / "slo.yaml"
    path.write_text(text, encoding="utf-8")
    return read_slo(path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must be a mapping"),
        ("- a", "must be a mapping"),
        ("rules: {", "not YAML"),
        ("rules: {errors.share: {max: 0}}", "version: Field required"),
        ("version: 2\nrules: {errors.share: {max: 0}}", "version: Input should be 1"),
        ("version: 1", "rules: Field required"),
        ("version: 1\nrules: {}", "rules: Dictionary should have at least 1 item"),
        ("version: 1\nrule: {errors.share: {max: 0}}", "rule: unknown key, did you mean rules?"),
        ("version: 1\nrules: {match.p95: {max: 5}}", "match.p95 is no metric, did you mean match.p95_ms?"),
        ("version: 1\nrules: {errors.share: {maximum: 0}}", "unknown key, did you mean max?"),
        ("version: 1\nrules: {errors.share: {}}", "a rule needs min, max or both"),
        ("version: 1\nrules: {errors.share: 0}", "rules.errors.share"),
        ("version: 1\nrules: {errors.share: {max: 5}}", "shares go from 0 to 1"),
        ("version: 1\nrules: {match.p95_ms: {min: 5, max: 4}}", "min 5 is above max 4"),
        ("version: 1\nrules: {match.p95_ms: {max: yes}}", "valid number"),
        ("version: 1\nrules: {match.p95_ms: {max: '200'}}", "valid number"),
        ("version: 1\nrules: {match.p95_ms: {max: .nan}}", "finite number"),
        ("version: 1\nrules: {match.p95_ms: {max: -1}}", "greater than or equal to 0"),
        ("version: 1\nrules: {match.p95_ms: {max: 1}, match.p95_ms: {max: 9}}", "'match.p95_ms' is given twice"),
        ("version: 1\nrules: {errors.share: {max: 0}}\ngoodput: {mtach: {}}", "unknown key, did you mean match?"),
        (
            "version: 1\nrules: {errors.share: {max: 0}}\ngoodput: {completion: {ttft: 5}}",
            "unknown key, did you mean ttft_ms?",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_the_place_and_the_nearest_key(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        slo_of(tmp_path, text)
    assert complaint in str(caught.value)
    assert "slo.yaml" in str(caught.value)


def test_a_missing_file_and_a_file_that_is_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_slo(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xff\x00\x01")
    with pytest.raises(UsageError, match="not YAML"):
        read_slo(tmp_path / "binary.yaml")


def test_bounds_are_included_and_each_rule_is_judged(tmp_path: Path, samples: Any) -> None:
    rules = "version: 1\nrules: {match.max_ms: {max: 100}, match.requests: {min: 1, max: 1}, match.p50_ms: {max: 99}}"
    figures = samples.figures_of([samples.observation(latency_s=0.1)])
    verdict, judgement = judge(slo_of(tmp_path, rules), figures)
    assert [(rule.metric, rule.ok) for rule in judgement.rules] == [
        ("match.max_ms", True),
        ("match.requests", True),
        ("match.p50_ms", False),
    ]
    assert verdict is Verdict.FAIL


@pytest.mark.parametrize(
    "metric", [name for name in catalogue() if not name.startswith(("match.", "requests.", "errors.", "shed.", "gen"))]
)
def test_a_metric_without_data_fails_whatever_its_bound(tmp_path: Path, samples: Any, metric: str) -> None:
    figures = samples.figures_of([samples.observation()])  # no completion and no rerank was sent
    verdict, judgement = judge(slo_of(tmp_path, f"version: 1\nrules: {{{metric}: {{max: 1}}}}"), figures)
    assert verdict is Verdict.FAIL
    assert judgement.rules[0].value is None
    assert "no data" in judgement.rules[0].note


def test_nothing_at_all_measured_fails_every_rule(tmp_path: Path, samples: Any) -> None:
    rules = "\n".join(f"  {name}: {{max: 1}}" for name in catalogue() if not name.startswith("generator."))
    verdict, judgement = judge(slo_of(tmp_path, f"version: 1\nrules:\n{rules}"), samples.figures_of([]))
    assert verdict is Verdict.FAIL
    assert not any(rule.ok for rule in judgement.rules)


def test_goodput_limits_reach_the_figures(tmp_path: Path, samples: Any) -> None:
    slo = slo_of(tmp_path, "version: 1\nrules: {match.good_share: {min: 1}}\ngoodput: {match: {latency_ms: 150}}")
    seen = [samples.observation(latency_s=0.1), samples.observation(latency_s=0.2)]
    verdict, judgement = judge(slo, samples.figures_of(seen, slo=slo))
    assert (verdict, judgement.rules[0].value) == (Verdict.FAIL, 0.5)
    assert judgement.goodput_limits == {Kind.MATCH: {"latency_ms": 150.0}}


@pytest.mark.parametrize("path", sorted((ROOT / "loadtests/slos").glob("*.yaml")), ids=lambda path: path.name)
def test_the_files_that_ship_are_valid(path: Path) -> None:
    assert read_slo(path).content.description


def test_the_documentation_lists_every_metric_with_its_unit_and_meaning(tmp_path: Path) -> None:
    text = (ROOT / "docs/loadtests.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z0-9_.{},]+)` \| (\S+) \| (.*) \|$", text, flags=re.MULTILINE)
    documented = {name: (unit, meaning) for pattern, unit, meaning in rows for name in expand(pattern)}
    assert set(documented) == set(catalogue())
    for name, (unit, meaning) in documented.items():
        metric = catalogue()[name]
        assert unit == metric.unit
        assert metric.meaning.endswith(meaning), name
    example = re.search(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    assert example is not None
    assert slo_of(tmp_path, example[1]).content.rules


def expand(pattern: str) -> list[str]:
    parts = [part.split(",") for part in re.split(r"[{}]", pattern)]
    return ["".join(choice) for choice in itertools.product(*parts)]
