"""Groups in: each text once, none of valid or test, and the report says what became of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.training.tiny import write_jsonl
from training.data.errors import DataError
from training.data.groups import paired_groups
from training.data.splits import GroupedSplits, load_pairs, with_groups
from training.recipe import EmbeddingData

pytestmark = pytest.mark.unit


def pair(a: str, b: str, label: int = 1) -> dict[str, Any]:
    return {"text_a": a, "text_b": b, "label": label}


TRAIN = [pair("a", "b"), pair("c", "b"), pair("x", "y"), pair("a", "x", 0), pair("lonely", "x", 0)]
HELD_OUT = [pair("v1", "v2"), pair("v1", "y", 0)]


def load(folder: Path, groups: list[dict[str, Any]] | None = None, **settings: Any) -> GroupedSplits:
    splits = {"train": TRAIN, "valid": HELD_OUT, "test": [pair("t1", "t2"), pair("t1", "t3", 0)]}
    urls = {name: str(write_jsonl(folder / f"{name}.jsonl", rows)) for name, rows in splits.items()}
    if groups is not None:
        urls["groups"] = str(write_jsonl(folder / "groups.jsonl", groups))
    data = EmbeddingData(**urls, **settings)
    return with_groups(load_pairs(data), data)


def texts(*members: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"text": text, "group": group} for text, group in members]


def test_without_a_file_groups_are_what_positive_pairs_join(tmp_path: Path) -> None:
    splits = load(tmp_path)
    groups: dict[str, set[str]] = {}
    for row in paired_groups([row for row in splits.train if row.label == "1"]):
        groups.setdefault(row.group, set()).add(row.text)
    assert sorted(map(sorted, groups.values())) == [["a", "b", "c"], ["x", "y"]]
    # y stands in valid.
    assert [row.text for row in splits.groups] == ["a", "b", "c", "x"]
    report = splits.report.groups
    assert report is not None
    assert (report.read, report.used, report.held_out, report.groups) == (5, 4, 1, 2)
    assert (report.smallest, report.largest) == (1, 3)


def test_every_text_of_the_file_is_used_rejected_or_left_out(tmp_path: Path) -> None:
    rows = texts(
        ("p", "one"), ("q", "one"), ("p", "one"), ("p", "two"), ("r", 2), ("v2", "one"), ("t3", 2), ("", "one")
    )
    splits = load(tmp_path, rows, bad_rows="reject", max_reject_share=0.2)
    assert [(row.text, row.group) for row in splits.groups] == [("p", "one"), ("q", "one"), ("r", "2")]
    report = splits.report.groups
    assert report is not None
    assert report.read == report.used + report.rejected + report.repeated + report.held_out == 8
    assert (report.rejected, report.repeated, report.conflicting, report.held_out) == (1, 2, 1, 2)
    ((split, reject),) = splits.rejects
    assert (split, reject.where) == ("groups", f"{tmp_path}/groups.jsonl:8")
    told = "\n".join(splits.report.lines())
    assert "3 of 8 texts, 2 groups of 1 to 2, 1 rejected, 2 repeated, 2 held out (in valid or test)" in told
    assert "WARNING: groups: 1 rows have the text of an earlier row and another group" in told
    assert splits.report.digests["groups"] == report.sha256


def test_its_digest_is_of_the_used_texts_and_their_groups(tmp_path: Path) -> None:
    rows = texts(("p", "one"), ("q", "one"), ("r", "two"))
    digests = [
        load(tmp_path, each).report.digests["groups"]
        for each in (
            rows,
            [*rows, *texts(("v1", "two"))],
            texts(("p", "one"), ("q", "one"), ("r", "one"), ("s", "two")),
        )
    ]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([{"text": "p", "category": "one"}], r"(?s)no column 'group'.*data\.columns\.group=…"),
        (texts(("p", "")), "group is empty"),
        (texts(("p", ["one"])), "group is empty, or neither text nor number"),
        (texts(("p", "one"), ("q", "one")), "2 texts in 1 groups are left"),
        (texts(("p", "one"), ("q", "two")), "two texts in one"),
    ],
)
def test_what_cannot_teach_is_refused(tmp_path: Path, groups: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path, groups)
