"""Predictions as files: their columns, their bytes, and how many rows given bytes hold. Equal rows give equal bytes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.manifest import Kind

Prediction = Mapping[str, Any]
# Column -> name of its Arrow type; also the order of CSV columns.
PAIR = {"id": "string", "score": "float64", "label": "string", "match": "bool_", "truncated": "bool_"}
COLUMNS: dict[Kind, dict[str, str]] = {
    "matching": PAIR,
    "embedding": PAIR,
    "generation": {"id": "string", "completion": "string", "finish_reason": "string", "tokens": "int64"},
}


def encode(rows: Sequence[Prediction], format: str, kind: Kind) -> bytes:
    """A file of `format` (jsonl, csv, parquet) with one row a prediction."""
    if format == "jsonl":
        return encode_lines(rows)
    if format == "csv":
        return _encode_csv(rows, COLUMNS[kind])
    return _encode_parquet(rows, COLUMNS[kind])


def encode_lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """JSON, one object a line."""
    return b"".join(f"{json.dumps(row, ensure_ascii=False)}\n".encode() for row in rows)


def count(data: bytes, format: str) -> int:
    """Rows of a file of `format`. Raises ValueError where it is none."""
    if format == "jsonl":
        if data and not data.endswith(b"\n"):
            raise ValueError("its last line is cut off")
        return data.count(b"\n")
    if format == "csv":
        # Every value is quoted where it needs to be, so quotes are balanced at the end of each record and nowhere else.
        records, quotes = 0, 0
        for line in io.BytesIO(data):
            quotes += line.count(b'"')
            records += quotes % 2 == 0
        if not records:
            raise ValueError("it has no header")
        return records - 1
    import pyarrow
    from pyarrow import parquet

    try:
        return int(parquet.ParquetFile(io.BytesIO(data)).metadata.num_rows)
    except pyarrow.ArrowException as error:
        raise ValueError(str(error)) from None


class _Lines(list[str]):
    """What csv.writer writes to, a record at a time."""

    def write(self, record: str) -> None:
        self.append(record.removesuffix("\r\n") + "\n")


def _encode_csv(rows: Sequence[Prediction], columns: Mapping[str, str]) -> bytes:
    lines = _Lines()
    # csv quotes a "\r" in a value only where it is part of the line's end; a bare one would break the record.
    writer = csv.writer(lines, lineterminator="\r\n")
    writer.writerow(columns)
    for row in rows:
        values = (row[name] for name in columns)
        writer.writerow(str(value).lower() if isinstance(value, bool) else value for value in values)
    return "".join(lines).encode()


def _encode_parquet(rows: Sequence[Prediction], columns: Mapping[str, str]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in columns.items()])
    sink = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema), sink)
    return sink.getvalue()
