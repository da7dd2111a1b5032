"""Records become the text that a person would expect, whatever file they stand in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.data.errors import DataError
from training.data.pairs import read_pairs
from training.data.serialisation import serialise
from training.data.splits import load_pairs
from training.recipe import PairData, Records

pytestmark = pytest.mark.unit
PHONE, OTHER = {"title": "iphone 4s", "price": 199, "brand": ""}, {"title": "apple iphone 4 s", "price": None}
NAMED = ("title: iphone 4s; price: 199", "title: apple iphone 4 s")
DITTO = "COL title VAL iphone 4s COL price VAL 199 COL brand VAL\tCOL title VAL apple iphone 4 s COL price VAL\t1\n"


def settings(path: Path, **more: Any) -> PairData:
    return PairData(train=str(path), valid=str(path), test=str(path), **more)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("named", "title: iphone 4s; price: 199"),
        ("values", "iphone 4s 199"),
        ("layout", "COL title VAL iphone 4s COL price VAL 199 COL brand VAL"),
    ],
)
def test_three_ways(how: Records, text: str) -> None:
    assert serialise(PHONE, how) == text


def test_the_same_records_from_any_file(tmp_path: Path) -> None:
    ditto = tmp_path / "pairs.txt"
    ditto.write_text(DITTO)
    objects = tmp_path / "pairs.jsonl"
    objects.write_text(json.dumps({"text_a": PHONE, "text_b": OTHER, "label": 1}) + "\n")
    flat = tmp_path / "pairs.csv"
    header = "left_title,left_price,left_brand,right_title,right_price,label"
    flat.write_text(f"{header}\niphone 4s,199,,apple iphone 4 s,,1\n")
    cells = tmp_path / "cells.tsv"
    cells.write_text("text_a\ttext_b\tlabel\n" + DITTO)
    columns = {"text_a": "left_*", "text_b": "right_*"}
    for path, more in ((ditto, {}), (objects, {}), (flat, {"columns": columns}), (cells, {})):
        (row,), rejects = read_pairs(str(path), settings(path, **more))
        assert (row.text_a, row.text_b, row.label) == (*NAMED, "1"), path
        assert not rejects


def test_a_folder_is_read_when_its_format_is_said(tmp_path: Path) -> None:
    (tmp_path / "part-0.txt").write_text(DITTO)
    rows, _ = read_pairs(str(tmp_path), settings(tmp_path, format="ditto", records="values"))
    assert [row.text_a for row in rows] == ["iphone 4s 199"]


def test_bad_records_are_named_by_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text(DITTO + "COL title VAL x\t1\n" + "COL title VAL\tCOL title VAL b\t0\n")
    with pytest.raises(DataError) as caught:
        load_pairs(settings(path))
    assert f"{path}:2: unreadable row (not Ditto's layout: two records and a label" in str(caught.value)
    assert f"{path}:3: text_a is empty" in str(caught.value)


def test_nested_attributes_and_missing_columns_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"text_a": {"sizes": [1, 2]}, "text_b": "b", "label": 1}) + "\n")
    _, (reject,) = read_pairs(str(path), settings(path))
    assert (reject.reason, reject.where) == ("text_a is no record", f"{path}:1")
    assert "'sizes' is a list" in reject.detail
    _, (reject,) = read_pairs(str(path), settings(path, columns={"text_a": "left_*"}))
    assert reject.reason == "no column 'left_*'"


def test_ordinary_text_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"text_a": "COL is a word", "text_b": "title: x", "label": 0}) + "\n")
    (row,), _ = read_pairs(str(path), settings(path))
    assert (row.text_a, row.text_b) == ("COL is a word", "title: x")
