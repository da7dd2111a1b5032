"""Records of entity-matching files: every attribute comes back, and what is no record is said with its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from records.entities import is_record, parse_record
from records.rows import BadRow, Row, read_rows

pytestmark = pytest.mark.unit
words = st.lists(st.text("abcxyz0.手机", min_size=1, max_size=6), max_size=4).map(" ".join)
names = st.text("abcd_", min_size=1, max_size=6)


@given(st.dictionaries(names, words, min_size=1, max_size=5))
def test_a_record_comes_back_whole(record: dict[str, str]) -> None:
    text = " ".join(f"COL {name} VAL {value}" for name, value in record.items())
    assert is_record(text)
    assert parse_record(text) == record


@pytest.mark.parametrize(
    ("text", "record"),
    [
        ("COL title VAL a b COL price VAL", {"title": "a b", "price": ""}),
        ("COL title VAL COL price VAL 5", {"title": "", "price": "5"}),
        ("COL title VAL  COL price VAL  9 ", {"title": "", "price": "9"}),
        ("COL brand name VAL acme", {"brand name": "acme"}),
        ("COL title VAL 3 COLD cuts VALUE pack", {"title": "3 COLD cuts VALUE pack"}),
        ("COL 标题 VAL 苹果 手机", {"标题": "苹果 手机"}),
    ],
)
def test_odd_records(text: str, record: dict[str, str]) -> None:
    assert parse_record(text) == record


@pytest.mark.parametrize("text", ["iphone 4s", "COL without", "VAL x COL a VAL b", "", "COL  VAL x"])
def test_what_is_no_record(text: str) -> None:
    assert not is_record(text)
    with pytest.raises(ValueError, match="must begin with COL name VAL"):
        parse_record(text)


def test_an_attribute_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="'title' stands twice"):
        parse_record("COL title VAL a COL title VAL b")


def test_lines_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    lines = ["COL title VAL a\tCOL title VAL b\t1", "", "COL title VAL a\tCOL title VAL b", "a\tCOL title VAL b\t0"]
    path.write_text("\n".join(lines) + "\n")
    first, short, rough = read_rows(str(path), format="ditto")
    assert first == Row(str(path), 1, {"text_a": {"title": "a"}, "text_b": {"title": "b"}, "label": "1"})
    assert isinstance(short, BadRow)
    assert (short.line, short.raw) == (3, lines[2])
    assert "found 2 fields" in short.reason
    assert isinstance(rough, BadRow)
    assert rough.line == 4
    assert "must begin with COL name VAL" in rough.reason
