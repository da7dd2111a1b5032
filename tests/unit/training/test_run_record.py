"""What a run depends on: the recipe's decisive settings, the rows and the base; not where they lie."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import InvalidInput
from training.recipe import Recipe
from training.run_folder import RunRefused, check_same
from training.run_record import TrainRecord, changes, dependencies, read_record

pytestmark = pytest.mark.unit
RAW: dict[str, Any] = {
    "name": "m",
    "model": {"kind": "matching"},
    "data": {"train": "a", "valid": "b", "test": "c"},
}
ROWS = {"train": "1", "valid": "2", "test": "3"}


def depends(rows: dict[str, str] = ROWS, base: str = "w", **changed: Any) -> dict[str, Any]:
    return dependencies(Recipe.model_validate(RAW | changed), rows, base)


def test_paths_names_and_compression_do_not_count() -> None:
    elsewhere = {"name": "n", "data": {"train": "/x/a", "valid": "b", "test": "c"}, "compress": {"int8_tolerance": 1}}
    moved = {"model": {"kind": "matching", "base": "/copy/of/minilm"}, "runs": "/elsewhere"}
    assert changes(depends(), depends(**elsewhere, **moved)) == []


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"seed": 8}, "seed: was 7, is 8"),
        ({"train": {"learning_rate": 1e-4}}, "train.learning_rate: was 5e-05, is 0.0001"),
        ({"model": {"kind": "matching", "dropout": 0.2}}, "model.dropout: was 0.1, is 0.2"),
        ({"rows": ROWS | {"test": "4"}}, "rows of data.test: was 3, is 4"),
        ({"base": "v"}, "weights of model.base: was w, is v"),
        ({"data": RAW["data"] | {"positive": "0"}}, "data.positive: was 1, is 0"),
    ],
)
def test_what_decides_about_the_weights_counts(other: dict[str, Any], message: str) -> None:
    assert changes(depends(), depends(**other)) == [message]


def test_a_setting_that_there_was_not_yet_had_its_default(tmp_path: Path) -> None:
    recipe = Recipe.model_validate(RAW)
    older = depends()
    del older["model.frozen"], older["train.gradient_clip"]  # as if these had come later
    record = TrainRecord(
        status="finished",
        recipe=recipe,
        depends_on=older,
        versions={},
        git_commit=None,
        started=datetime(2026, 1, 1, tzinfo=UTC),
    )
    check_same(tmp_path, record, depends())
    with pytest.raises(RunRefused, match=r"train\.gradient_clip: was 1\.0, is 2\.0"):
        check_same(tmp_path, record, depends(train={"gradient_clip": 2.0}))


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    (tmp_path / "train.json").write_text('{"status": "done"}')
    with pytest.raises(InvalidInput, match="--fresh"):
        read_record(tmp_path)
