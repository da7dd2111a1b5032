"""The bundled data is what its notices say, and the script that made it makes it again."""

from __future__ import annotations

import json
import random
from itertools import combinations
from pathlib import Path

import pytest

from training.data.splits import PairSplits, load_examples, load_pairs
from training.recipe import ExampleData, PairData
from training.samples import dates
from training.samples.make import LONGEST_QUESTION, PAIRS, TWIN, draw_pairs

pytestmark = pytest.mark.unit
SAMPLES = Path(__file__).parents[3] / "training" / "samples"


@pytest.fixture(scope="module")
def splits() -> PairSplits:
    folder = SAMPLES / "banking77-pairs"
    return load_pairs(PairData(**{name: str(folder / f"{name}.jsonl") for name in ("train", "valid", "test")}))


def test_the_pairs_are_clean_balanced_and_the_questions_of_the_splits_disjoint(splits: PairSplits) -> None:
    report = splits.report
    assert report.warnings == ()
    assert {name: split.used for name, split in report.splits.items()} == PAIRS
    for split in report.splits.values():
        assert split.labels == {"0": split.used // 2, "1": split.used // 2}
        assert split.duplicates is not None
        assert split.duplicates.rows == 0
    assert [(leak.overlap.rows, leak.shared_texts) for leak in report.leakage] == [(0, 0)] * 3
    rows = [row for name in PAIRS for row in splits.rows(name)]
    assert max(len(text) for row in rows for text in (row.text_a, row.text_b)) <= LONGEST_QUESTION


def test_each_sample_carries_its_licence() -> None:
    notice = (SAMPLES / "banking77-pairs/NOTICE.md").read_text()
    for needed in ("PolyAI", "Casanueva", "Creative Commons Attribution 4.0", "What was changed"):
        assert needed in notice
    assert "Attribution 4.0 International" in (SAMPLES / "banking77-pairs/LICENSE").read_text()
    assert "public domain" in (SAMPLES / "shakespeare/NOTICE.md").read_text()
    counts = " / ".join(f"{count:,}" for count in PAIRS.values())
    assert counts in notice


def test_drawing_is_deterministic_and_keeps_its_promises() -> None:
    by_intent = {intent: [f"{intent} question {number}" for number in range(12)] for intent in TWIN}
    drawn = draw_pairs(by_intent, 240, random.Random("x"))
    assert drawn == draw_pairs(by_intent, 240, random.Random("x"))
    assert drawn != draw_pairs(by_intent, 240, random.Random("y"))
    intents = [(a.split(" question ")[0], b.split(" question ")[0], label) for a, b, label in drawn]
    assert all((a == b) == bool(label) for a, b, label in intents)
    assert sum(label for *_, label in intents) == 120
    neighbours = sum(TWIN[a] == b for a, b, label in intents if not label)
    assert neighbours >= 90
    assert len({frozenset(pair[:2]) for pair in drawn}) == 240
    assert all(5 <= sum(a == intent for a, b, label in intents if label) <= 11 for intent in TWIN)


def test_the_shakespeare_is_text() -> None:
    text = (SAMPLES / "shakespeare/train.txt").read_text(encoding="utf-8")
    assert len(text) > 1_000_000
    assert text.startswith("First Citizen:")


def test_no_question_stands_on_both_sides_of_a_split() -> None:
    questions = {}
    for name in PAIRS:
        lines = (SAMPLES / f"banking77-pairs/{name}.jsonl").read_text(encoding="utf-8").splitlines()
        questions[name] = {row[side] for row in map(json.loads, lines) for side in ("text_a", "text_b")}
    assert all(questions[one].isdisjoint(questions[two]) for one, two in combinations(questions, 2))


def test_the_dates_are_made_again_byte_for_byte_and_no_day_stands_in_two_splits(tmp_path: Path) -> None:
    dates.make(tmp_path)
    for split in dates.ROWS:
        assert (tmp_path / f"{split}.csv").read_bytes() == (SAMPLES / "dates" / f"{split}.csv").read_bytes()
    files = {split: str(SAMPLES / "dates" / f"{split}.csv") for split in dates.ROWS}
    splits = load_examples(ExampleData(**files))
    assert {split: report.used for split, report in splits.report.splits.items()} == dates.ROWS
    days = [row.target for split in dates.ROWS for row in splits.rows(split)]
    assert len(set(days)) == len(days)
    assert splits.report.warnings == ()
