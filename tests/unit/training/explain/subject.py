"""Rows, scorers and a fake run to explain."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.backends.fake import write_fake_artifact
from runtime.contract import Pair
from training.data.pairs import LabelledPair
from training.explain.contract import ScoredRows
from training.explain.features import overlap

TOPICS = ("card", "pin", "rate", "cash", "fee", "loan", "note", "bank")
TOPICS += ("app", "top", "limit", "refund", "transfer", "account", "change", "currency")
CHINESE = ("卡片", "密码", "汇率", "现金", "费用", "贷款", "银行", "账户")


def pair_rows(count: int, seed: int, words: Sequence[str] = TOPICS, between: str = " ") -> list[dict[str, Any]]:
    """Matches share three words of four, others one; some have numbers."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        first = chance.sample(words, 4)
        same = number % 2
        rest = [word for word in words if word not in first]
        second = [*first[:3], chance.choice(rest)] if same else [first[0], *chance.sample(rest, 3)]
        ends = [chance.choice(("", f"{between}{chance.randrange(10, 99)}", "?")) for _ in range(2)]
        rows.append({
            "text_a": between.join(first) + ends[0],
            "text_b": between.join(second) + ends[1],
            "label": same,
        })  # fmt: skip
    return rows


def scored(rows: Sequence[dict[str, Any]], scores: Sequence[float], threshold: float = 0.5) -> ScoredRows:
    """Rows with scores, as an artifact would give them."""
    labelled = [
        LabelledPair(row["text_a"], row["text_b"], str(row["label"]), f"rows.jsonl:{line}")
        for line, row in enumerate(rows, 1)
    ]
    return ScoredRows(
        rows=labelled,
        truth=np.asarray([row["label"] == 1 for row in rows]),
        scores=np.asarray(scores, float),
        threshold=threshold,
        tokens=np.asarray([len(row["text_a"] + row["text_b"]) for row in rows]),
        dropped_tokens=np.zeros(len(rows), np.int64),
    )


def by_overlap(pairs: Sequence[Pair]) -> np.ndarray:
    """A symmetric model: words in common."""
    return np.asarray([overlap(pair.text_a, pair.text_b) for pair in pairs])


def first_text_only(pairs: Sequence[Pair]) -> np.ndarray:
    """An asymmetric one: it asks only whether the first text is the longer one."""
    return np.asarray([float(len(pair.text_a) > len(pair.text_b)) for pair in pairs])


def write_run(folder: Path, kind: str = "matching", rows: Sequence[dict[str, Any]] | None = None) -> tuple[Path, Path]:
    """A fake artifact and a recipe for its data: (artifact, recipe)."""
    artifact = folder / "model"
    write_fake_artifact(artifact, kind)  # type: ignore[arg-type]
    if kind == "generation":
        for number in range(3):
            (folder / f"poem-{number}.txt").write_text("a sluice lets through what is asked for, no more. " * 12)
        data = f"data: {{train: {folder}, valid: {folder}, test: {folder}}}\n"
        recipe = "name: fake\nmodel: {kind: generation}\n" + data
    else:
        for split, seed in (("train", 1), ("valid", 2), ("test", 3)):
            each = rows or pair_rows(120, seed)
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in each)
            (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
        data = ", ".join(f"{split}: {folder}/{split}.jsonl" for split in ("train", "valid", "test"))
        recipe = f"name: fake\nmodel: {{kind: matching}}\ndata: {{{data}}}\n"
    (folder / "recipe.yaml").write_text(recipe)
    return artifact, folder / "recipe.yaml"
