"""The next version of a data set: the rows of all splits with the decisions of a sheet applied, in a folder of its own.

    DIR/train.jsonl valid.jsonl test.jsonl   the rows
    DIR/version.json                         what it was made from, every decision, digests before and after
    DIR/recipe.yaml                          the recipe, on these rows

Nothing is overwritten. The same rows and decisions make the same folder, which is left as it is when it is there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from runtime.errors import InvalidInput
from training.data.pairs import LabelledPair, sha256_of
from training.data.splits import SPLITS, PairSplits
from training.recipe import PairData, Recipe
from training.review.findings import DROP, KEEP, fingerprint
from training.review.sheet import Line, refuse

FOLDER, MANIFEST_FILE, RECIPE_FILE = "versions", "version.json", "recipe.yaml"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Decision(_Part):
    """One row that was decided on. `after`: its label now; None: the row is gone. `by`: a person, or its rank."""

    row: str
    where: str
    before: str
    after: str | None
    by: Literal["person", "rank"]
    rank: int


class SplitChange(_Part):
    """One split before and after."""

    rows_before: int
    rows_after: int
    sha256_before: str
    sha256_after: str


class Version(_Part):
    """`version.json`. `kept`: rows that a person looked at and found right. `accepted`: how many suggestions were taken
    without a person."""

    splits: dict[str, SplitChange]
    decisions: tuple[Decision, ...]
    kept: tuple[str, ...]
    accepted: int

    @property
    def digest(self) -> str:
        """Of the rows and of how they came about."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def accept(lines: Sequence[Line], count: int) -> list[Line]:
    """The `count` most suspicious undecided rows of train that have a label suggested. valid and test are left out:
    what measures a model must not be corrected by one. Raises InvalidInput: the sheet has fewer of them."""
    open_lines = [line for line in lines if line.split == "train" and not line.decision and _is_label(line.suggested)]
    if count > len(open_lines):
        raise InvalidInput(f"--accept {count}: the sheet has {len(open_lines)} open suggestions for train; take fewer.")
    return sorted(open_lines, key=lambda line: line.rank)[:count]


def apply(
    recipe: Recipe,
    splits: PairSplits,
    lines: Sequence[Line],
    accepted: Sequence[Line],
    sheet: Path,
    target: Path | None,
) -> tuple[Path, Version, bool]:
    """Make the next version from the sheet's decisions and the `accepted` suggestions.

    Returns its folder, what it is, and whether it is new. Raises InvalidInput: a line whose row is not there or is
    another than it was, no decision at all, or a `target` that holds something else.
    """
    rows = {split: list(splits.rows(split)) for split in SPLITS}
    refuse([problem for line in lines if (problem := _mismatch(line, rows, sheet))])
    after: dict[str, list[LabelledPair | None]] = {split: list(rows[split]) for split in SPLITS}
    decisions, kept = [], []
    by_rank = {(line.split, line.number) for line in accepted}
    for line in sorted(lines, key=lambda line: (SPLITS.index(line.split), line.number)):
        automatic = (line.split, line.number) in by_rank
        decided = line.suggested if automatic else line.decision
        row = rows[line.split][line.number - 1]
        name = f"{line.split}:{line.number}"
        if decided == KEEP or (decided == row.label and not automatic):
            kept.append(name)
        elif decided:
            label = None if decided == DROP else decided
            changed = None if label is None else LabelledPair(row.text_a, row.text_b, label, row.where)
            after[line.split][line.number - 1] = changed
            by: Literal["person", "rank"] = "rank" if automatic else "person"
            decisions.append(Decision(row=name, where=row.where, before=row.label, after=label, by=by, rank=line.rank))
    if not decisions:
        raise InvalidInput(
            f"{sheet}: no row is decided otherwise than it is. Write a label, or {DROP}, into the column `decision`, "
            "or take the first suggestions with --accept N."
        )
    remaining = {split: [row for row in after[split] if row is not None] for split in SPLITS}
    version = Version(
        splits={
            split: SplitChange(
                rows_before=len(rows[split]),
                rows_after=len(remaining[split]),
                sha256_before=sha256_of(rows[split]),
                sha256_after=sha256_of(remaining[split]),
            )
            for split in SPLITS
        },
        decisions=tuple(decisions),
        kept=tuple(kept),
        accepted=len(accepted),
    )
    folder = target or recipe.run / FOLDER / version.digest[:12]
    if folder.exists():
        _check_same(folder, version)
        return folder, version, False
    _write(recipe, remaining, version, folder)
    return folder, version, True


def _mismatch(line: Line, rows: dict[str, list[LabelledPair]], sheet: Path) -> str | None:
    name = f"{line.split}:{line.number}"
    if line.split not in rows:
        return f"{sheet}:{line.line}: row {name}: there is no split {line.split!r}"
    if line.number > len(rows[line.split]):
        return f"{sheet}:{line.line}: row {name}: {line.split} has {len(rows[line.split])} rows"
    if fingerprint(rows[line.split][line.number - 1]) != line.fingerprint:
        return f"{sheet}:{line.line}: row {name} is another than it was; the data has changed, review it again"
    return None


def _is_label(decision: str) -> bool:
    return decision not in {"", DROP, KEEP}


def _check_same(folder: Path, version: Version) -> None:
    try:
        there = Version.model_validate_json((folder / MANIFEST_FILE).read_bytes())
    except (OSError, ValidationError):
        there = None
    if there != version:
        raise InvalidInput(
            f"{folder} is there already and holds something else; nothing is overwritten. Choose another --out."
        )


def _write(recipe: Recipe, rows: dict[str, list[LabelledPair]], version: Version, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for split in SPLITS:
        lines = [
            json.dumps({"text_a": row.text_a, "text_b": row.text_b, "label": row.label}, ensure_ascii=False) + "\n"
            for row in rows[split]
        ]
        (partial / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    (partial / MANIFEST_FILE).write_text(version.model_dump_json(indent=1) + "\n", encoding="utf-8")
    document = next_recipe(recipe, folder, version.digest[:8]).model_dump(mode="json", exclude_unset=True)
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    (partial / RECIPE_FILE).write_text(text, encoding="utf-8")
    partial.rename(folder)


def next_recipe(recipe: Recipe, folder: Path, suffix: str) -> Recipe:
    """The recipe with its data in `folder`, under another name, so that its run does not meet the old one."""
    assert isinstance(recipe.data, PairData)
    # What says how to read the old files is of no use here: these are JSONL in UTF-8 with the usual columns.
    kept = recipe.data.model_dump(mode="json", exclude_unset=True, exclude={"format", "columns", "encoding"})
    places = {split: str(folder / f"{split}.jsonl") for split in SPLITS}
    raw = recipe.model_dump(mode="json", exclude_unset=True)
    return Recipe.model_validate(raw | {"name": f"{recipe.name}-{suffix}", "data": kept | places})
