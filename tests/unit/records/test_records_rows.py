"""Every record comes out, as a row or as a bad row with its place; damage to one does not reach the next."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from records.rows import MAX_LINE, BadRow, Row, RowsError, read_rows
from records.storage import StorageError

pytestmark = pytest.mark.unit
# What a text cell may hold: everything but lone surrogates; csv cannot carry NUL.
cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=12)


def put(folder: Path, name: str, data: str | bytes) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


def lines(url: str, **settings: Any) -> list[tuple[int, Any]]:
    """(line, values or reason) of each record."""
    return [
        (row.line, row.values if isinstance(row, Row) else f"BAD {row.reason}") for row in read_rows(url, **settings)
    ]


@given(st.lists(st.fixed_dictionaries({"a": cells, "b": cells | st.integers() | st.booleans() | st.none()})))
def test_jsonl_round_trip(rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = put(Path(folder), "x.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        assert lines(url) == list(enumerate(rows, 1))


@given(st.lists(st.tuples(cells, cells), max_size=8), st.sampled_from(["csv", "tsv"]), st.sampled_from(["\n", "\r\n"]))
def test_csv_round_trip_with_quoted_newlines_and_true_line_numbers(
    rows: list[tuple[str, str]], kind: str, newline: str
) -> None:
    buffer = io.StringIO()
    delimiter = "," if kind == "csv" else "\t"
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator=newline, quoting=csv.QUOTE_ALL)
    writer.writerow(("a", "b"))
    expected = []
    for row in rows:
        expected.append((buffer.getvalue().count("\n") + 1, {"a": row[0], "b": row[1]}))
        writer.writerow(row)
    with tempfile.TemporaryDirectory() as folder:
        url = put(Path(folder), f"x.{kind}", buffer.getvalue())
        assert lines(url) == expected


def test_parquet_gives_values_and_row_numbers(tmp_path: Path) -> None:
    table = pyarrow.table({"a": ["x", None, "z"], "n": [1, 2, 3]})
    parquet.write_table(table, tmp_path / "x.parquet")
    assert lines(str(tmp_path / "x.parquet")) == [
        (1, {"a": "x", "n": 1}), (2, {"a": None, "n": 2}), (3, {"a": "z", "n": 3}),
    ]  # fmt: skip


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf8_with_and_without_bom(tmp_path: Path, bom: bytes, encoding: str) -> None:
    url = put(tmp_path, "x.csv", bom + "a,b\né,你好\n".encode())
    assert lines(url, encoding=encoding) == [(2, {"a": "é", "b": "你好"})]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "gb18030", "cp1252", "utf-32"])
def test_other_encodings(tmp_path: Path, encoding: str) -> None:
    text = "a,b\né,x\n" if encoding == "cp1252" else "a,b\n你好,x\n"
    url = put(tmp_path, "x.csv", text.encode(encoding))
    assert lines(url, encoding=encoding) == [(2, {"a": text[4:].split(",")[0], "b": "x"})]


def test_a_utf16_mark_is_believed_over_the_setting(tmp_path: Path) -> None:
    assert lines(put(tmp_path, "x.csv", "a\n你\n".encode("utf-16"))) == [(2, {"a": "你"})]


def test_gzip_is_read_and_damage_to_it_named(tmp_path: Path) -> None:
    data = gzip.compress(b'{"a": 1}\n' * 1000)
    assert len(lines(put(tmp_path, "x.jsonl.gz", data))) == 1000
    with pytest.raises(RowsError, match=r"y\.jsonl\.gz: the compressed data is damaged"):
        lines(put(tmp_path, "y.jsonl.gz", data[:-20]))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON: Expecting property name"),
        (b"[1]", "a JSON object is needed, found list"),
        (b'{"a": 1, "a": 2}', "the key 'a' stands twice"),
        (b'{"a": NaN}', "NaN is not a JSON value"),
        (b'{"a": "\xff"}', "byte 0xff after 7 characters does not decode"),
        (b'{"a": 1e999}', "1e999 is out of range"),
        (b"{\0}", "it holds a NUL character"),
        (b'{"a": "' + b"x" * MAX_LINE + b'"}', "the line is longer than 16 MiB"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_jsonl_line_is_named_and_its_neighbours_are_read(tmp_path: Path, line: bytes, reason: str) -> None:
    url = put(tmp_path, "x.jsonl", b'{"a": 1}\n\n' + line + b'\n{"a": 3}')
    first, bad, last = read_rows(url)
    assert isinstance(bad, BadRow)
    assert reason in bad.reason
    assert (bad.file, bad.line) == (url, 3)
    assert len(bad.raw) <= 500
    assert [row.values for row in (first, last) if isinstance(row, Row)] == [{"a": 1}, {"a": 3}]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"1", "1 fields, the header has 2"),
        (b"1,2,3", "3 fields, the header has 2"),
        (b"1,\xff", "byte 0xff after 2 characters does not decode"),
        (b'1,"2"x', "not CSV"),
        (b"1,\0", "it holds a NUL character"),
        (b"1," + b"x" * MAX_LINE, "the line is longer than 16 MiB"),
    ],
)
def test_a_bad_csv_line_is_named_and_its_neighbours_are_read(tmp_path: Path, line: bytes, reason: str) -> None:
    url = put(tmp_path, "x.csv", b"a,b\n1,2\n" + line + b"\n3,4\n")
    first, bad, last = read_rows(url)
    assert isinstance(bad, BadRow)
    assert reason in bad.reason
    assert bad.line == 3
    assert [row.values["a"] for row in (first, last) if isinstance(row, Row)] == ["1", "3"]


def test_a_quote_that_is_never_closed_takes_no_other_row_with_it(tmp_path: Path) -> None:
    found = lines(put(tmp_path, "x.csv", 'a,b\n1,2\n3,"4\n5,6\n7,"8\n9,10\n'))
    assert [line for line, _ in found] == [2, 3, 4, 5, 6]
    assert found[1] == (3, "BAD not CSV: ',' expected after '\"', in a field that would reach from line 3 to 5")
    assert found[3] == (5, "BAD not CSV: unexpected end of data, in a field that would reach from line 5 to 6")
    assert [values for _, values in found[::2]] == [{"a": n, "b": str(int(n) + 1)} for n in ("1", "5", "9")]


def test_long_fields_are_read(tmp_path: Path) -> None:
    text = "x" * 1_000_000
    assert lines(put(tmp_path, "x.csv", f"a,b\n1,{text}\n")) == [(2, {"a": "1", "b": text})]


# A character that opens, closes or ends something, or does not decode, at any place.
@given(st.lists(st.sampled_from([b'"', b",", b"\n", b"\r\n", b"x", b"\xff", b"\0"]), max_size=30))
def test_no_line_of_a_damaged_csv_vanishes(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    with tempfile.TemporaryDirectory() as folder:
        url = put(Path(folder), "x.csv", b"a,b\n" + data)
        found = list(read_rows(url))
    beginnings = [row.line for row in found]
    assert beginnings == sorted(set(beginnings))
    # Each line that is not blank begins a record, or lies in a quoted field of the one before it.
    physical = data.split(b"\n")
    for number, line in enumerate(physical, 2):
        if line.strip() and number not in beginnings:
            owner = max(begun for begun in beginnings if begun < number)
            row = next(row for row in found if row.line == owner)
            text = "".join(map(str, row.values.values())) if isinstance(row, Row) else row.raw
            assert "\n" in text, (number, line)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.csv", "", r"x\.csv is empty: a header line"),
        ("x.csv", "a,b\0\n1,2\n", r"x\.csv:1: the header cannot be read: it holds a NUL"),
        ("x.csv", 'a,"b\n1,2\n', r"x\.csv:1: the header cannot be read: not CSV"),
        ("x.csv", "a,a\n1,2\n", r"x\.csv:1: the column 'a' stands twice"),
        ("x.json", "[]", r"x\.json: unknown ending; known are \.csv"),
        ("x.parquet", "not parquet", r"x\.parquet: not readable as Parquet after row 0"),
        ("x.parquet.gz", "x", "unknown ending"),
    ],
)
def test_a_file_that_cannot_be_read_as_rows_is_named(tmp_path: Path, name: str, data: str, message: str) -> None:
    with pytest.raises(RowsError, match=message):
        lines(put(tmp_path, name, data))


def test_utf16_that_breaks_off_is_named(tmp_path: Path) -> None:
    with pytest.raises(RowsError, match=r"x\.csv: not utf-16 somewhere after line 2"):
        lines(put(tmp_path, "x.csv", "a\n你\n".encode("utf-16") + b"\x00"))


def test_parquet_with_a_column_twice_is_refused(tmp_path: Path) -> None:
    table = pyarrow.table([pyarrow.array([1]), pyarrow.array([2])], names=["a", "a"])
    parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(RowsError, match="the column 'a' stands twice"):
        lines(str(tmp_path / "x.parquet"))


def test_a_folder_is_its_files_in_order_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a/z.jsonl", "_SUCCESS", ".x.jsonl", "_errors/y.jsonl"):
        put(tmp_path, name, f'{{"n": "{name}"}}\n')
    assert [values["n"] for _, values in lines(str(tmp_path))] == ["a/z.jsonl", "b.jsonl"]


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RowsError, match="nothing there to read"):
        lines(str(tmp_path))
    with pytest.raises(StorageError, match="no such file or folder"):
        lines(str(tmp_path / "x.csv"))
    with pytest.raises(RowsError, match="encoding 'klingon' is not known"):
        lines(put(tmp_path, "x.csv", "a\n"), encoding="klingon")
