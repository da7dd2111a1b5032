"""The command: what it refuses, and what a section that fails leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import GENERATION, MATCHING, main, parser, run
from benchmarks.bench import Bench
from benchmarks.generation.bench import GenerationBench
from benchmarks.generation.models import Models
from runtime.backends.fake import write_fake_artifact
from runtime.contract import Pair

pytestmark = pytest.mark.unit


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    write_fake_artifact(tmp_path / "artifact", "matching")
    pairs = [Pair(f"a {number}", "b") for number in range(64)]
    return Bench(tmp_path / "artifact", "matching:v1", tmp_path, pairs, 5, 5.0, 60.0, 7, tmp_path / "scratch")


def test_an_unknown_section_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["overlaod"])
    assert ended.value.code == 2
    assert "'overlaod' is not a section; there are matching, generation, peers, rerank" in capsys.readouterr().err


def test_a_section_that_fails_says_why_and_writes_nothing(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = parser().parse_args(["rerank", "--out", str(tmp_path / "out")])
    assert run("rerank", bench, options, "python -m benchmarks rerank") is False  # a fake model has no graph
    assert "rerank could not be measured: ArtifactRefused" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_whole_run_is_promised_within_50_minutes(bench: Bench, tmp_path: Path) -> None:
    assert sum(section.estimate_s(bench) for section in MATCHING.values()) <= 35 * 60
    models = Models(tmp_path, ("gpt2", "llama"))
    generation = GenerationBench(models, tmp_path, None, 3, 5.0, 60.0, True, tmp_path)  # type: ignore[arg-type]
    assert sum(section.estimate_s(generation) for section in GENERATION.values()) <= 15 * 60
