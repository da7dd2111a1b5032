"""Records of the input -> what the model takes, or a bad row with its place and reason. Knows no engine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batch.job import Job
from records.rows import SHOWN_CHARACTERS, BadRow, Row, read_file
from records.s3 import SCHEME
from runtime.errors import InvalidInput
from runtime.manifest import Kind
from runtime.text import check_text


@dataclass(frozen=True, slots=True)
class Item:
    """One usable row: its id, its line in the file, and the pair or the prompt."""

    id: str
    line: int
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reject:
    """One row that gets no prediction. `raw` is its beginning."""

    line: int
    reason: str
    raw: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Shard:
    """`shard_rows` consecutive records of one file, the last shard of a file fewer.

    `file` is the file's URL, `short` its name below the input. `name` is unique in the job and the same in every run.
    """

    name: str
    file: str
    short: str
    rows: Sequence[Item | Reject]


def shard_name(file: int, number: int) -> str:
    """Name of the shard at place `number` of the file at place `file`."""
    return f"part-{file:05d}-{number:05d}"


def input_root(job: Job) -> str:
    """The input's URL in one spelling."""
    return (job.input if job.input.startswith(SCHEME) else str(Path(job.input))).rstrip("/")


class Reader:
    """Reads files of one job."""

    def __init__(self, job: Job, kind: Kind) -> None:
        self._job = job
        columns = job.columns
        self._texts = (columns.prompt,) if kind == "generation" else (columns.text_a, columns.text_b)
        self._root = input_root(job)

    def short(self, file: str) -> str:
        """The file's name below the input, or its last part where the input is the file itself."""
        return file.rpartition("/")[2] if file == self._root else file.removeprefix(f"{self._root}/")

    def rows(self, file: str) -> Iterator[Item | Reject]:
        """Every record of a file. Raises StorageError; RowsError for a file that cannot be read as rows."""
        short = self.short(file)
        for row in read_file(file, encoding=self._job.encoding, format=self._job.input_format):
            yield Reject(row.line, row.reason, row.raw) if isinstance(row, BadRow) else self._item(row, short)

    def cut(self, place: int, file: str, wanted: set[str]) -> Iterator[Shard]:
        """The shards of a file whose names are `wanted`, in order."""
        size = self._job.shard_rows
        rows: list[Item | Reject] = []
        count = 0
        for row in self.rows(file):
            rows.append(row)
            if len(rows) == size:
                if shard_name(place, count) in wanted:
                    yield Shard(shard_name(place, count), file, self.short(file), rows)
                rows, count = [], count + 1
        if rows and shard_name(place, count) in wanted:
            yield Shard(shard_name(place, count), file, self.short(file), rows)

    def _item(self, row: Row, short: str) -> Item | Reject:
        try:
            texts = tuple(_text(row.values, column) for column in self._texts)
            return Item(self._id(row, short), row.line, texts)
        except InvalidInput as error:
            return Reject(row.line, error.message.rstrip("."), beginning(row.values))

    def _id(self, row: Row, short: str) -> str:
        column = self._job.columns.id
        value = row.values.get(column or "id")
        if value is None or value == "":
            if column is not None:
                raise InvalidInput(f"the id column {column!r} is missing or empty")
            return f"{short}#{row.line}"
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise InvalidInput(f"the id is neither text nor a whole number but {type(value).__name__}")
        check_text(str(value), column or "id")
        return str(value)


def _text(values: Mapping[str, Any], column: str) -> str:
    if column not in values:
        raise InvalidInput(f"no column {column!r}; it has {', '.join(map(repr, values)) or 'none'}")
    value = values[column]
    if not isinstance(value, str):
        raise InvalidInput(f"{column} is not text but {type(value).__name__}")
    check_text(value, column)
    return value


def beginning(values: Any) -> str:
    """The beginning of a row as JSON, for a person to find it by."""
    return (
        json.dumps(values, ensure_ascii=False, default=str)[:SHOWN_CHARACTERS]
        .encode("utf-8", "backslashreplace")
        .decode()
    )
