"""Prediction files: equal rows give equal bytes, and what was written is what is read and counted."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch.predictions import count, encode
from records.rows import Row, read_rows

pytestmark = pytest.mark.unit
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
completions = st.lists(
    st.fixed_dictionaries({"id": texts, "completion": texts, "finish_reason": texts, "tokens": st.integers(0, 2**40)}),
    max_size=8,
)


@settings(deadline=None)  # the first example imports pyarrow
@given(completions, st.sampled_from(["jsonl", "csv", "parquet"]))
def test_what_is_written_is_read_and_counted(rows: list[dict[str, Any]], format: str) -> None:
    data = encode(rows, format, "generation")
    assert data == encode(rows, format, "generation")
    assert count(data, format) == len(rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"x.{format}")
        path.write_bytes(data)
        found = [row.values for row in read_rows(str(path)) if isinstance(row, Row)]
    if format == "csv":
        rows = [{**row, "tokens": str(row["tokens"])} for row in rows]
    assert found == rows


@settings(deadline=None)
@given(st.floats(0, 1, width=32))
def test_scores_survive_every_format(score: float) -> None:
    row = {"id": "a", "score": score, "label": "same", "match": True, "truncated": False}
    for format in ("jsonl", "csv", "parquet"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"x.{format}")
            path.write_bytes(encode([row], format, "matching"))
            (found,) = (each.values for each in read_rows(str(path)) if isinstance(each, Row))
        assert float(found["score"]) == score


@pytest.mark.parametrize(("format", "data"), [("jsonl", b'{"id"'), ("csv", b""), ("csv", b'"a'), ("parquet", b"PAR1")])
def test_what_is_no_such_file_is_not_counted(format: str, data: bytes) -> None:
    with pytest.raises(ValueError):
        count(data, format)
