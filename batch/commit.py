"""The commit protocol: a shard is there whole or not at all, and never twice.

1. Its bad rows go to `_errors/NAME.jsonl`, by a conditional write (only if absent).
2. Its predictions go to `NAME.EXT`, by a conditional write. This is the commit: what is there is done.
3. When every shard is committed, what lies there is counted against the input, and `_SUCCESS` is written.

The content of both files is a function of the shard's rows, the job and the artifact alone, so it does not matter which
of two workers wins, nor where a killed run stopped. It does matter that the store honours the condition.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batch.plan import Shard
from batch.scoring import Prediction, Scored
from records.storage import StorageError, exists, join, put_if_absent, read_bytes

SUCCESS_FILE = "_SUCCESS"
ERRORS_FOLDER = "_errors"


@dataclass(frozen=True, slots=True)
class Committed:
    """What lies in the output for one shard."""

    name: str
    rows_out: int
    rows_bad: int
    sha256: str


def shard_url(output: str, shard: str, format: str) -> str:
    """Where a shard's predictions go."""
    return join(output, f"{shard}.{format}")


def errors_url(output: str, shard: str) -> str:
    """Where a shard's bad rows go, if it has any."""
    return join(output, f"{ERRORS_FOLDER}/{shard}.jsonl")


def commit_shard(output: str, shard: Shard, scored: Scored, format: str, columns: Mapping[str, str]) -> bool:
    """Write the errors, then the predictions. Returns whether this call made the commit. Raises StorageError."""
    if scored.errors:
        put_if_absent(errors_url(output, shard.name), _jsonl(scored.errors))
    return put_if_absent(shard_url(output, shard.name, format), encode(scored.predictions, format, columns))


def read_committed(output: str, shard: str, format: str) -> Committed:
    """Count what is really there. Raises StorageError when the shard is missing or cannot be read."""
    url = shard_url(output, shard, format)
    data = read_bytes(url)
    try:
        rows = _count(data, format)
    except (ValueError, OSError) as error:
        raise StorageError(f"{url} is not what was committed: {error}. Delete it and run the job again.") from None
    errors = errors_url(output, shard)
    bad = read_bytes(errors).count(b"\n") if exists(errors) else 0
    return Committed(shard, rows, bad, hashlib.sha256(data).hexdigest())


def commit_success(output: str, report: Mapping[str, Any]) -> None:
    """Write `_SUCCESS`. Another run that finished first wrote the same."""
    put_if_absent(join(output, SUCCESS_FILE), (json.dumps(report, indent=1) + "\n").encode())


def read_success(output: str) -> Mapping[str, Any] | None:
    """The report of a finished job; None where it has not finished."""
    url = join(output, SUCCESS_FILE)
    report: Mapping[str, Any] | None = json.loads(read_bytes(url)) if exists(url) else None
    return report


def encode(rows: Sequence[Prediction], format: str, columns: Mapping[str, str]) -> bytes:
    """Predictions as a file's bytes; equal rows give equal bytes."""
    if format == "jsonl":
        return _jsonl(rows)
    if format == "csv":
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return buffer.getvalue().encode()
    import pyarrow
    from pyarrow import parquet

    types = {
        "string": pyarrow.string(),
        "float64": pyarrow.float64(),
        "int64": pyarrow.int64(),
        "bool": pyarrow.bool_(),
    }
    schema = pyarrow.schema([(name, types[kind]) for name, kind in columns.items()])
    sink = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema), sink)
    return sink.getvalue()


def _jsonl(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return b"".join(_line(row) for row in rows)


def _line(row: Mapping[str, Any]) -> bytes:
    try:
        return f"{json.dumps(row, ensure_ascii=False, default=str)}\n".encode()
    except UnicodeEncodeError:
        # A lone surrogate has no UTF-8 form; as an escape it survives in JSON.
        return f"{json.dumps(row, default=str)}\n".encode()


def _count(data: bytes, format: str) -> int:
    if format == "jsonl":
        return sum(1 for line in data.split(b"\n") if line)
    if format == "csv":
        return sum(1 for _ in csv.reader(io.StringIO(data.decode(), newline=""))) - 1
    from pyarrow import parquet

    return int(parquet.ParquetFile(io.BytesIO(data)).metadata.num_rows)
