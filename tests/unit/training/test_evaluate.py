"""Evaluation through the engine: metrics at the artifact's threshold, perplexity with a sliding context."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from runtime.backends.fake import POISON, write_fake_artifact
from runtime.contract import Pair
from runtime.errors import BackendFailed, InvalidInput
from runtime.generation import GenerationEngine
from runtime.load import load_engine
from runtime.manifest import Evaluation, read_manifest, replace_manifest
from runtime.matching import MatchingEngine
from training.evaluate import evaluate_generation, evaluate_matching, main, record

pytestmark = pytest.mark.unit
PAIRS = [Pair("a b", "b a"), Pair("a b c", "a b d"), Pair("x", "y"), Pair("same", "same")]


@pytest.fixture
def matching(tmp_path: Path) -> MatchingEngine:
    write_fake_artifact(tmp_path, "matching")
    engine = load_engine(tmp_path)
    assert isinstance(engine, MatchingEngine)
    return engine


def test_matching_metrics_are_those_of_the_engines_scores(matching: MatchingEngine) -> None:
    found = evaluate_matching(matching, PAIRS, [1, 0, 0, 1])
    assert found["roc_auc"] == 1.0
    assert found["threshold"] == 0.5
    scores = [result.score for result in matching.score(PAIRS)]  # type: ignore[union-attr]
    guessed = [score >= 0.5 for score in scores]
    assert found["accuracy"] == sum(g == t for g, t in zip(guessed, [1, 0, 0, 1], strict=True)) / 4
    matching.manifest = matching.manifest.model_copy(update={"threshold": 1.0})
    assert evaluate_matching(matching, PAIRS, [1, 0, 0, 1])["threshold"] == 1.0


def test_a_row_that_fails_fails_the_evaluation(matching: MatchingEngine) -> None:
    with pytest.raises(BackendFailed):
        evaluate_matching(matching, [*PAIRS, Pair(POISON, "a")], [1, 0, 0, 1, 0])
    with pytest.raises(InvalidInput, match="same label"):
        evaluate_matching(matching, PAIRS, [1, 1, 1, 1])


class _Counting:
    """log p of a token is -(its place in the window): tells which window scored it, and with how much before it."""

    context = 8

    def __init__(self, engine: GenerationEngine) -> None:
        self.manifest, self.encode = engine.manifest, engine.encode
        self.seen: list[tuple[int, int]] = []

    def log_probs(self, ids: list[int]) -> list[float]:
        assert 2 <= len(ids) <= self.context
        return [-float(place) for place in range(1, len(ids))]


@pytest.mark.parametrize("length", [1, 2, 6, 7, 8, 9, 11, 12, 13, 31])
def test_every_token_is_scored_once_with_at_least_half_the_context(tmp_path: Path, length: int) -> None:
    write_fake_artifact(tmp_path, "generation")
    engine = load_engine(tmp_path)
    assert isinstance(engine, GenerationEngine)
    found = evaluate_generation(_Counting(engine), "x" * length)  # type: ignore[arg-type]
    assert (found["tokens"], found["bytes"]) == (length, length)
    # Token i (from 1, behind the begin token) of the first window has i before it; later ones 4 to 7.
    places = [i if i < 8 else 4 + (i - 8) % 4 for i in range(1, length + 1)]
    assert math.log(found["perplexity"]) == pytest.approx(sum(places) / length)
    assert found["bits_per_byte"] == pytest.approx(sum(places) / math.log(2) / length)


def test_perplexity_of_a_text_within_the_context_is_that_of_its_log_probs(tmp_path: Path) -> None:
    write_fake_artifact(tmp_path, "generation")
    engine = load_engine(tmp_path)
    assert isinstance(engine, GenerationEngine)
    ids = [256, *engine.encode("a sluice lets")]
    expected = -sum(engine.log_probs(ids)) / (len(ids) - 1)
    assert math.log(evaluate_generation(engine, "a sluice lets")["perplexity"]) == pytest.approx(expected)


def test_evaluations_pile_up_and_the_same_rows_replace_their_own(tmp_path: Path) -> None:
    manifest = write_fake_artifact(tmp_path, "matching")
    for sha256, value in (("a" * 64, 0.1), ("b" * 64, 0.2), ("a" * 64, 0.3)):
        entry = Evaluation(split="test", dataset_sha256=sha256, rows=1, metrics={"f1": value})
        manifest = record(tmp_path, manifest, entry)
    assert [each.metrics["f1"] for each in read_manifest(tmp_path).evaluations] == [0.2, 0.3]
    assert read_manifest(tmp_path).digest == manifest.digest


def test_the_command_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert "is not an artifact" in capsys.readouterr().err
    manifest = write_fake_artifact(tmp_path / "run" / "int8", "matching")
    assert main([str(tmp_path / "run" / "int8")]) == 1
    assert "add --recipe" in capsys.readouterr().err
    replace_manifest(tmp_path / "run" / "int8", manifest)
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: x\nmodel: {kind: matching}\ndata: {train: a, valid: b, test: c}\n")
    assert main([str(recipe), f"runs={tmp_path}"]) == 1
    assert "has no artifact yet" in capsys.readouterr().err
    assert main([str(tmp_path / "nothing.yaml")]) == 2
