"""Planted label errors are found far above chance; the command finds, tells and applies from files to files."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.unit.training.tiny import encoder_folder, write_jsonl
from training.__main__ import main
from training.data.errors import DataError
from training.review.evidence import Pairs
from training.review.findings import read_review
from training.review.label_errors import judge
from training.review.out_of_fold import probabilities
from training.review.planted import plant
from training.review.vectors import cached_vectors

pytestmark = pytest.mark.integration


def clustered(rows: int, seed: int) -> Pairs:
    """Pairs of 120 texts in eight groups; two of a group match."""
    chance = np.random.default_rng(seed)
    group = np.arange(120) % 8
    vectors = (chance.normal(size=(8, 16))[group] + 1.2 * chance.normal(size=(120, 16))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    first = chance.integers(0, 120, rows)
    alike = chance.random(rows) < 0.5
    second = np.where(alike, (first + 8 * chance.integers(1, 15, rows)) % 120, chance.integers(0, 120, rows))
    return Pairs(vectors, first, second, (group[first] == group[second]).astype(np.int64), 1, 2)


def test_planted_errors_are_found() -> None:
    pairs = clustered(600, 1)
    wrong, planted = plant(pairs.labels, 2, 0.05, seed=1)
    nothing = pairs.only(np.zeros(600, bool))
    found = probabilities(pairs.labelled(wrong), nothing, seed=1)
    recall = (judge(wrong, found.own).ranks <= planted.sum())[planted].mean()
    assert recall >= 0.5  # ten times chance
    assert found.others.shape == (0, 2)


def test_no_row_is_judged_by_its_own_label() -> None:
    # All pairs in the data once, labelled by a coin: whoever knew a row's label would show it.
    pairs = clustered(400, 2)
    labels = np.random.default_rng(5).integers(0, 2, 400)
    found = probabilities(pairs.labelled(labels), pairs.only(np.zeros(400, bool)), seed=1)
    assert abs((found.own.argmax(1) == labels).mean() - 0.5) < 0.1


def test_other_rows_are_judged_by_all() -> None:
    pairs = clustered(600, 3)
    train = np.arange(600) < 450
    found = probabilities(pairs.only(train), pairs.only(~train), seed=1)
    assert (found.others.argmax(1) == pairs.labels[~train]).mean() > 0.85


def test_three_labels_and_too_few_rows() -> None:
    pairs = clustered(300, 4)
    labels = pairs.labels.copy()
    labels[(pairs.labels == 0) & (pairs.first % 2 == 0)] = 2
    three = Pairs(pairs.vectors, pairs.first, pairs.second, labels, 1, 3)
    found = probabilities(three, three.only(np.zeros(300, bool)), seed=1)
    assert found.own.shape == (300, 3)
    np.testing.assert_allclose(found.own.sum(1), 1)
    with pytest.raises(DataError, match="at least 5 rows of each label, and one has 0"):
        probabilities(Pairs(pairs.vectors, pairs.first, pairs.second, pairs.labels, 1, 3), three, seed=1)


def test_vectors_are_kept_for_the_same_texts_only(tmp_path: Path) -> None:
    encoder, cache = encoder_folder(tmp_path / "encoder"), tmp_path / "vectors.npz"
    first = cached_vectors(["a", "b long text"], encoder, 16, cache)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-6)
    written = cache.stat().st_mtime_ns
    assert (cached_vectors(["a", "b long text"], encoder, 16, cache) == first).all()
    assert cache.stat().st_mtime_ns == written
    other = cached_vectors(["b long text"], encoder, 16, cache)
    np.testing.assert_allclose(other[0], first[1], atol=1e-6)  # alone or beside others
    cache.write_bytes(b"damaged")
    assert cached_vectors(["b long text"], encoder, 16, cache).shape == (1, 32)


def questions(count: int, seed: int) -> list[dict[str, object]]:
    chance = random.Random(seed)
    topics = {"card": "银行卡", "loan": "贷款", "transfer": "转账"}
    texts = {
        topic: [f"{chinese} {topic} {chance.randrange(10**6)}" for _ in range(12)] for topic, chinese in topics.items()
    }
    rows = []
    for number in range(count):
        one, other = chance.sample(sorted(topics), 2)
        a, b = chance.sample(texts[one], 2)
        rows.append({"text_a": a, "text_b": b if number % 2 else chance.choice(texts[other]), "label": number % 2})
    return rows


def test_from_recipe_to_the_next_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"train": questions(80, 1), "valid": questions(24, 2), "test": questions(24, 3)}
    repeated = rows["train"][3]
    rows["train"][10] = repeated | {"text_a": f"{repeated['text_a']}！", "label": 0}  # it was 1
    rows["test"][0] = rows["train"][0]
    data = {split: str(write_jsonl(tmp_path / f"{split}.jsonl", found)) for split, found in rows.items()}
    document = {
        "name": "faq",
        "runs": str(tmp_path / "runs"),
        "model": {"kind": "matching", "base": str(encoder_folder(tmp_path / "encoder"))},
        "data": data,
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(document))
    assert main(["review", str(recipe)]) == 0
    assert "next: fill in" in capsys.readouterr().out
    run = tmp_path / "runs" / "faq"
    review = read_review(run)
    assert review is not None
    by_row = {suspect.row: {reason.kind for reason in suspect.reasons} for suspect in review.suspects}
    assert {"conflict"} <= by_row["train:4"] & by_row["train:11"]
    assert "duplicate" in by_row["train:11"]
    assert "leak" in by_row["train:1"]
    page = (run / "review" / "review.html").read_text(encoding="utf-8")
    assert "银行卡" in page or "贷款" in page or "转账" in page
    sheet = run / "review" / "review.csv"
    with sheet.open(encoding="utf-8-sig", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["row"] for line in lines] == [suspect.row for suspect in review.suspects]
    next(line for line in lines if line["row"] == "train:11")["decision"] = "1"
    with sheet.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    assert main(["review", "apply", str(recipe), str(sheet), "--out", str(tmp_path / "next")]) == 0
    corrected = [
        json.loads(line) for line in (tmp_path / "next" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    different = [place for place, row in enumerate(corrected) if str(rows["train"][place]["label"]) != row["label"]]
    assert different == [10]
    assert main(["review", "apply", str(recipe), str(sheet), "--out", str(tmp_path / "next")]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(["review", str(recipe)]) == 0  # a second review leaves the filled-in sheet where it can be found
    assert "train:11" in (run / "review" / "review.csv.before").read_text(encoding="utf-8")


def test_what_cannot_be_reviewed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("words " * 2000)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"name": "lm", "model": {"kind": "generation"}, "data": {"train": str(text)}}))
    assert main(["review", str(recipe), f"runs={tmp_path}"]) == 1
    assert "only labelled pairs can be reviewed" in capsys.readouterr().err
    assert main(["review", str(tmp_path / "none.yaml")]) == 2
