"""A shard's content is a function of its rows and the artifact, and every row comes out once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from batch.job import Job
from batch.plan import plan_model
from batch.predictions import Prediction
from batch.reading import Item, Reject, Shard
from batch.scoring import Scorer, row_seed
from runtime.backends.fake import write_fake_artifact
from runtime.errors import ArtifactRefused
from runtime.manifest import read_manifest

pytestmark = pytest.mark.unit


def scorer_of(folder: Path, kind: Any, **fields: Any) -> Scorer:
    write_fake_artifact(folder / "m", kind)
    job = Job(input="in", output="out", model=str(folder / "m"), **fields)
    return Scorer(job, plan_model(job, "m:1", read_manifest(folder / "m")), folder / "m")


def shard_of(*rows: Item | Reject) -> Shard:
    return Shard("part-00000-00000", "in/x.jsonl", "x.jsonl", rows)


def test_every_row_comes_out_once_in_order(tmp_path: Path) -> None:
    rows = [
        Item("a", 1, ("same text", "Same Text")),
        Reject(2, "not JSON", "{"),
        Item("c", 3, ("<poison>", "x")),
        Item("d", 4, ("one", "two")),
        Item("e", 5, ("long " * 200, "two")),
    ]
    scored = scorer_of(tmp_path, "matching").score(shard_of(*rows))
    assert [(p["id"], p["match"], p["label"], p["truncated"]) for p in scored.predictions] == [
        ("a", True, "same", False), ("d", False, "different", False), ("e", False, "different", True),
    ]  # fmt: skip
    assert [(r.line, r.id) for r in scored.rejects] == [(2, None), (3, "c")]
    assert json.loads(scored.rejects[1].raw) == ["<poison>", "x"]


def test_a_bi_encoder_scores_pairs_by_cosine_and_a_bad_text_spoils_its_pairs_only(tmp_path: Path) -> None:
    rows = [
        Item("a", 1, ("one two", "TWO one")),
        Item("b", 2, ("one", "three")),
        Item("c", 3, ("one", "<poison>")),
        Item("d", 4, ("one", "one two")),
    ]
    scored = scorer_of(tmp_path, "embedding", threshold=0.8).score(shard_of(*rows))
    assert [(p["id"], p["label"], p["match"], p["truncated"]) for p in scored.predictions] == [
        ("a", "match", True, False), ("b", "no_match", False, False), ("d", "match", True, False),
    ]  # fmt: skip
    # (1 + cosine) / 2; the fake's vectors count words.
    assert [p["score"] for p in scored.predictions] == pytest.approx([1.0, 0.5, (1 + 0.5**0.5) / 2])
    assert [r.id for r in scored.rejects] == ["c"]


def test_a_bi_encoder_takes_a_text_of_the_full_length_on_each_side(tmp_path: Path) -> None:
    rows = [Item("a", 1, ("x" * 256, "y" * 256)), Item("b", 2, ("x", "y" * 257))]
    (reject,) = scorer_of(tmp_path, "embedding", truncate=False).score(shard_of(*rows)).rejects
    assert (reject.id, reject.reason.partition(".")[0]) == ("b", "text_b has 257 tokens; this model takes 256")


def test_with_truncation_refused_a_long_row_is_a_bad_row_and_the_others_score_as_before(tmp_path: Path) -> None:
    rows = [Item("a", 1, ("x y", "y")), Item("b", 2, ("long " * 200, "y")), Item("c", 3, ("x", "y"))]
    cut = scorer_of(tmp_path, "matching").score(shard_of(*rows))
    refused = scorer_of(tmp_path, "matching", truncate=False).score(shard_of(*rows))
    assert [p for p in cut.predictions if p["id"] != "b"] == list(refused.predictions)
    (reject,) = refused.rejects
    assert "the pair has 1002 tokens; this model takes 256" in reject.reason


def test_the_threshold_of_the_job_decides(tmp_path: Path) -> None:
    row = Item("a", 1, ("a b c", "a b d"))
    (score,) = (p["score"] for p in scorer_of(tmp_path, "matching").score(shard_of(row)).predictions)
    for threshold, match in ((score, True), (min(1.0, score + 1e-6), False)):
        (found,) = scorer_of(tmp_path, "matching", threshold=threshold).score(shard_of(row)).predictions
        assert found["match"] is match


def continuations(folder: Path, rows: list[Item], size: int, **settings: Any) -> list[Prediction]:
    scorer = scorer_of(folder, "generation", generate={"max_tokens": 12, "temperature": 2.0, **settings})
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    found = [prediction for part in parts for prediction in scorer.score(shard_of(*part)).predictions]
    scorer.close()
    return found


def test_a_sampled_row_depends_on_its_place_and_the_seed_and_not_on_its_company(tmp_path: Path) -> None:
    rows = [Item(f"r{line}", line, ("once upon a time",)) for line in range(1, 61)]
    alone = continuations(tmp_path, rows, 1)
    assert continuations(tmp_path, rows, 20) == alone
    assert continuations(tmp_path, rows, 7) == alone
    assert continuations(tmp_path, rows, 20, seed=8) != alone
    assert len({p["completion"] for p in alone}) > 1  # rows draw for themselves


def test_row_seeds_are_apart() -> None:
    seeds = {row_seed(seed, file, line) for seed in range(5) for file in ("a", "b") for line in range(50)}
    assert len(seeds) == 500
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_prompt_that_does_not_fit_is_a_bad_row(tmp_path: Path) -> None:
    scored = scorer_of(tmp_path, "generation", generate={"max_tokens": 60}).score(
        shard_of(Item("a", 1, ("p" * 200,)), Item("b", 2, ("",)), Item("c", 3, ("p",)))
    )
    assert [(r.id, "context is 256" in r.reason) for r in scored.rejects] == [("a", True)]
    assert [p["tokens"] for p in scored.predictions] == [60, 60]


def test_an_artifact_that_changed_since_the_plan_is_refused(tmp_path: Path) -> None:
    manifest = write_fake_artifact(tmp_path / "m", "matching")
    job = Job(input="in", output="out", model=str(tmp_path / "m"))
    write_fake_artifact(tmp_path / "m", "matching", max_tokens=99)
    with pytest.raises(ArtifactRefused, match="has changed since the job was planned"):
        Scorer(job, plan_model(job, "m:1", manifest), tmp_path / "m")
