"""A filled-in sheet makes exactly the next data set, once; what cannot be meant is refused by file and line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from records.document import read_document
from runtime.errors import InvalidInput
from tests.unit.training.tiny import pair_rows, write_jsonl
from training.data.splits import PairSplits, load_pairs
from training.recipe import PairData, Recipe
from training.review.findings import Reason, Review, Suspect, fingerprint
from training.review.sheet import COLUMNS, read_sheet, write_sheet
from training.review.version import MANIFEST_FILE, RECIPE_FILE, Version, accept, apply

pytestmark = pytest.mark.unit
LABELS = ("0", "1")


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    data = {
        split: str(write_jsonl(tmp_path / f"{split}.jsonl", pair_rows(20, seed)))
        for seed, split in enumerate(("train", "valid", "test"))
    }
    raw = {"name": "faq", "runs": str(tmp_path / "runs"), "model": {"kind": "matching"}, "data": data}
    return Recipe.model_validate(raw | {"data": data | {"encoding": "utf-8"}})


@pytest.fixture
def splits(recipe: Recipe) -> PairSplits:
    assert isinstance(recipe.data, PairData)
    return load_pairs(recipe.data)


Fill = Callable[..., Path]


@pytest.fixture
def fill(splits: PairSplits, tmp_path: Path) -> Fill:
    """Write a sheet of the first five rows of train and the first of test, with decisions in their order."""

    def filled(*decisions: str) -> Path:
        suspects = tuple(
            Suspect(
                row=f"{split}:{number + 1}",
                where=row.where,
                text_a=row.text_a,
                text_b=row.text_b,
                label=row.label,
                suggested="01"[row.label == "0"],
                suspicion=0.9,
                rank=number + 1,
                reasons=(Reason(kind="label", text="the label is unlikely"),),
                fingerprint=fingerprint(row),
            )
            for split, count in (("train", 5), ("test", 1))
            for number, row in enumerate(splits.rows(split)[:count])
        )
        review = Review(rows={}, sha256={}, encoder="", seed=7, counted_errors={}, suspects=suspects)
        path = write_sheet(review, tmp_path / "review.csv")
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
        for row, decision in zip(rows, decisions, strict=False):
            row["decision"] = decision
        with path.open("w", encoding="utf-8-sig", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        return path

    return filled


def rows_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_decisions_are_applied_and_nothing_else(recipe: Recipe, splits: PairSplits, fill: Fill) -> None:
    # Rows of train are 0, 1, 0, 1, 0; a spreadsheet has written 1 as 1.0, and a person keep in capitals.
    sheet = fill("1.0", "drop", "", "KEEP", "0", "1")
    folder, version, new = apply(recipe, splits, read_sheet(sheet, LABELS), [], sheet, None)
    assert new
    expected = [[row.text_a, row.text_b, row.label] for row in splits.train]
    expected[0][2] = "1"
    del expected[1]
    written = rows_of(folder / "train.jsonl")
    assert [[row["text_a"], row["text_b"], row["label"]] for row in written] == expected
    assert [row["label"] for row in rows_of(folder / "test.jsonl")] == ["1", *(row.label for row in splits.test[1:])]
    changed = [(each.row, each.before, each.after, each.by) for each in version.decisions]
    assert changed == [
        ("train:1", "0", "1", "person"), ("train:2", "1", None, "person"), ("test:1", "0", "1", "person")
    ]  # fmt: skip
    assert version.kept == ("train:4", "train:5")


def test_the_manifest_has_the_digests_that_reading_gives(recipe: Recipe, splits: PairSplits, fill: Fill) -> None:
    sheet = fill("1", "drop")
    folder, _, _ = apply(recipe, splits, read_sheet(sheet, LABELS), [], sheet, None)
    version = Version.model_validate_json((folder / MANIFEST_FILE).read_bytes())
    corrected = read_document(folder / RECIPE_FILE, Recipe)
    assert isinstance(corrected.data, PairData)
    after = load_pairs(corrected.data)
    for split, change in version.splits.items():
        assert change.sha256_before == splits.sha256(split)
        assert change.sha256_after == after.sha256(split)
    assert version.splits["train"].rows_after == 19
    assert version.splits["valid"].sha256_before == version.splits["valid"].sha256_after
    assert corrected.name != recipe.name


def test_applied_twice_nothing_happens(recipe: Recipe, splits: PairSplits, fill: Fill) -> None:
    sheet = fill("1")
    first, _, _ = apply(recipe, splits, read_sheet(sheet, LABELS), [], sheet, None)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in first.iterdir()}
    second, _, new = apply(recipe, splits, read_sheet(sheet, LABELS), [], sheet, None)
    assert (second, new) == (first, False)
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in first.iterdir()} == before
    assert sorted(path.name for path in first.parent.iterdir()) == [first.name]


def test_what_is_there_is_not_overwritten(recipe: Recipe, splits: PairSplits, fill: Fill, tmp_path: Path) -> None:
    sheet, target = fill("1"), tmp_path / "mine"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    with pytest.raises(InvalidInput, match="holds something else"):
        apply(recipe, splits, read_sheet(sheet, LABELS), [], sheet, target)
    assert [path.name for path in target.iterdir()] == ["notes.txt"]


def test_wrong_decisions_are_named_by_line(fill: Fill) -> None:
    sheet = fill("maybe", "1", "2")
    with pytest.raises(InvalidInput) as caught:
        read_sheet(sheet, LABELS)
    assert f"{sheet}:2: decision 'maybe' is unknown; write one of the labels (0, 1), drop, keep" in str(caught.value)
    assert f"{sheet}:4: decision '2' is unknown" in str(caught.value)
    assert ":3:" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("train:2", "train:99", "row train:99: train has 20 rows"),
        ("train:2", "train:0", "is not SPLIT:NUMBER"),
        ("train:2", "dev:2", "there is no split 'dev'"),
        ("train:2", "train:1", "stands on line 2 already"),
        ("train:2", "train:7", "train:7 is another than it was; the data has changed"),
    ],
)
def test_unknown_rows_are_named_by_line(
    recipe: Recipe, splits: PairSplits, fill: Fill, old: str, new: str, problem: str
) -> None:
    sheet = fill("1", "0")
    sheet.write_text(sheet.read_text(encoding="utf-8-sig").replace(old, new), encoding="utf-8")
    with pytest.raises(InvalidInput) as caught:
        apply(recipe, splits, read_sheet(sheet, LABELS), [], sheet, None)
    assert f"{sheet}:3: " in str(caught.value)
    assert problem in str(caught.value)
    assert not (recipe.run / "versions").exists()


def test_data_that_changed_since_is_refused(recipe: Recipe, splits: PairSplits, fill: Fill) -> None:
    sheet = fill("1")
    assert isinstance(recipe.data, PairData)
    rows = pair_rows(20, 0)
    rows[0]["text_a"] += " changed"
    write_jsonl(Path(recipe.data.train), rows)
    with pytest.raises(InvalidInput, match=r"review\.csv:2: row train:1 is another than it was"):
        apply(recipe, load_pairs(recipe.data), read_sheet(sheet, LABELS), [], sheet, None)


def test_an_empty_sheet_changes_nothing(recipe: Recipe, splits: PairSplits, fill: Fill) -> None:
    sheet = fill()
    with pytest.raises(InvalidInput, match="--accept N"):
        apply(recipe, splits, read_sheet(sheet, LABELS), [], sheet, None)


def test_the_first_suggestions_are_taken_and_marked(recipe: Recipe, splits: PairSplits, fill: Fill) -> None:
    sheet = fill("keep", "", "drop")
    lines = read_sheet(sheet, LABELS)
    _, version, _ = apply(recipe, splits, lines, accept(lines, 2), sheet, None)
    changed = [(each.row, each.after, each.by) for each in version.decisions]
    assert changed == [("train:2", "0", "rank"), ("train:3", None, "person"), ("train:4", "0", "rank")]
    assert (version.accepted, version.kept) == (2, ("train:1",))
    with pytest.raises(InvalidInput, match="has 3 open suggestions for train"):  # that of test is not among them
        accept(lines, 4)


def test_a_sheet_may_be_jsonl(recipe: Recipe, splits: PairSplits, tmp_path: Path) -> None:
    row = splits.train[0]
    line = {"row": "train:1", "fingerprint": fingerprint(row), "suggested": "1", "rank": 1, "decision": 1}
    sheet = write_jsonl(tmp_path / "review.jsonl", [line])
    _, version, _ = apply(recipe, splits, read_sheet(sheet, LABELS), [], sheet, None)
    assert [each.row for each in version.decisions] == ["train:1"]
