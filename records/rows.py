"""Rows out of CSV, TSV, JSONL and Parquet, one at a time; a row that cannot be read is an answer too, with its place.

Nothing is dropped: every record of a file comes out as a Row or a BadRow. Blank lines between records are not records.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from records.storage import StorageError, list_files, open_seekable, open_stream

Format = Literal["csv", "tsv", "jsonl", "parquet"]
ENDINGS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
COMPRESSED = ".gz"
PARQUET_BATCH_ROWS = 1024
SHOWN_CHARACTERS = 500


class RowsError(StorageError):
    """A file as a whole cannot be read as rows: unknown format, no header, corrupt container."""


@dataclass(frozen=True, slots=True)
class Row:
    """One record. `line` is the physical line where it begins (from 1), in Parquet the row number."""

    file: str
    line: int
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """One record that cannot be read. `raw` is its beginning as it stands in the file."""

    file: str
    line: int
    reason: str
    raw: str


def read_rows(url: str, *, encoding: str = "utf-8-sig", format: Format | None = None) -> Iterator[Row | BadRow]:
    """Every record of the file, folder or `s3://` prefix `url`, files in order of their names.

    `encoding` is of the text formats; a UTF-8 or UTF-16 byte-order mark is honoured in any case. `format` overrides
    the file's ending. Raises StorageError, and RowsError for a file that cannot be read at all.
    """
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise RowsError(f"encoding {encoding!r} is not known to Python.") from None
    files = list_files(url)
    if not files:
        raise RowsError(f"{url}: there is nothing there to read.")
    for file in files:
        yield from read_file(file, encoding=encoding, format=format)


def read_file(file: str, *, encoding: str = "utf-8-sig", format: Format | None = None) -> Iterator[Row | BadRow]:
    """Every record of one file; see `read_rows`."""
    kind = format or format_of(file)
    if kind == "parquet":
        yield from _read_parquet(file)
        return
    with _text_lines(file, encoding) as lines:
        yield from (_read_jsonl(file, lines) if kind == "jsonl" else _read_csv(file, lines, _DELIMITERS[kind]))


def format_of(file: str) -> Format:
    """The format that a file's ending means. Raises RowsError naming the known ones."""
    name = file.lower().removesuffix(COMPRESSED)
    for ending, kind in ENDINGS.items():
        if name.endswith(ending) and not (kind == "parquet" and file.lower().endswith(COMPRESSED)):
            return kind
    raise RowsError(f"{file}: unknown ending; known are {', '.join(ENDINGS)} (and .gz of the text formats).")


_DELIMITERS = {"csv": ",", "tsv": "\t"}


# ---------------------------------------------------------------- text

# A physical line: its text, in which bytes that do not decode are lone surrogates.
Lines = Iterator[str]


@contextmanager
def _text_lines(file: str, encoding: str) -> Iterator[Lines]:
    with open_stream(file) as stream:
        compressed = file.lower().endswith(COMPRESSED)
        plain: BinaryIO = gzip.GzipFile(fileobj=stream) if compressed else stream  # type: ignore[assignment]
        yield _decoded(file, plain, encoding)


def _decoded(file: str, stream: BinaryIO, encoding: str) -> Lines:
    # Lines are cut as bytes and decoded one by one, so that a byte that does not decode spoils its own row alone.
    # That is right for every encoding in which b"\n" is a newline; UTF-16 and UTF-32 go through a text stream.
    try:
        buffered = io.BufferedReader(stream)  # type: ignore[type-var]
        start = buffered.peek(4)[:4]
        if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # before UTF-16, whose mark begins it
            encoding = "utf-32"
        elif start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            encoding = "utf-16"
        elif start.startswith(codecs.BOM_UTF8):
            buffered.read(len(codecs.BOM_UTF8))
        if codecs.lookup(encoding).name.startswith(("utf-16", "utf-32")):
            yield from io.TextIOWrapper(buffered, encoding, newline="\n")
            return
        codec = "utf-8" if codecs.lookup(encoding).name == "utf-8-sig" else encoding
        for line in buffered:
            yield line.decode(codec, "surrogateescape")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise RowsError(f"{file}: the compressed data is damaged: {error}.") from None
    except UnicodeDecodeError as error:
        raise RowsError(f"{file}: byte {error.start} is not {encoding}: {error.reason}.") from None


def _undecodable(text: str) -> str | None:
    """Says which byte did not decode, if one did not."""
    place = next((at for at, character in enumerate(text) if "\udc80" <= character <= "\udcff"), None)
    return None if place is None else f"byte 0x{ord(text[place]) - 0xDC00:02x} after {place} characters does not decode"


def _shown(text: str) -> str:
    return text[:SHOWN_CHARACTERS].encode("utf-8", "backslashreplace").decode()


def _read_jsonl(file: str, lines: Lines) -> Iterator[Row | BadRow]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        reason = _undecodable(line)
        if reason is None:
            try:
                values = json.loads(line, object_pairs_hook=_object, parse_constant=_no_constant)
            except json.JSONDecodeError as error:
                reason = f"not JSON: {error.msg} at column {error.colno}"
            except (ValueError, RecursionError) as error:
                reason = f"not JSON: {error}"
            else:
                if isinstance(values, dict):
                    yield Row(file, number, values)
                    continue
                reason = f"a JSON object is needed, found {type(values).__name__}"
        yield BadRow(file, number, reason, _shown(line.rstrip("\r\n")))


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return values


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


class _Counted:
    """Lines as csv.reader takes them, remembering the ones that the current record used."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self.count = 0
        self.record: list[str] = []

    def __iter__(self) -> _Counted:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.count += 1
        self.record.append(line)
        return line


def _read_csv(file: str, lines: Lines, delimiter: str) -> Iterator[Row | BadRow]:
    source = _Counted(lines)
    reader = csv.reader(source, delimiter=delimiter, strict=True)

    def record() -> tuple[int, list[str] | str] | None:
        """(first line, fields or what is wrong); None at the end."""
        source.record.clear()
        first = source.count + 1
        try:
            fields = next(reader)
        except StopIteration:
            return None
        except csv.Error as error:
            return first, f"not {'TSV' if delimiter == chr(9) else 'CSV'}: {error}"
        return first, _undecodable("".join(source.record)) or fields

    header = _header(file, record)
    while (found := record()) is not None:
        line, fields = found
        if fields == []:
            continue
        if isinstance(fields, list) and len(fields) == len(header):
            yield Row(file, line, dict(zip(header, fields, strict=True)))
            continue
        reason = fields if isinstance(fields, str) else f"{len(fields)} fields, the header has {len(header)}"
        yield BadRow(file, line, reason, _shown("".join(source.record).rstrip("\r\n")))


def _header(file: str, record: Callable[[], tuple[int, list[str] | str] | None]) -> list[str]:
    while (found := record()) is not None and found[1] == []:
        pass
    if found is None:
        raise RowsError(f"{file} is empty: a header line with the column names is needed.")
    line, fields = found
    if isinstance(fields, str):
        raise RowsError(f"{file}:{line}: the header cannot be read: {fields}.")
    twice = next((name for name in fields if fields.count(name) > 1), None)
    if twice is not None:
        raise RowsError(f"{file}:{line}: the column {twice!r} stands twice in the header.")
    return fields


# ---------------------------------------------------------------- Parquet


def _read_parquet(file: str) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    with open_seekable(file) as stream:
        number = 0
        try:
            for batch in parquet.ParquetFile(stream).iter_batches(PARQUET_BATCH_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(file, number, values)
        except (pyarrow.ArrowException, OSError) as error:
            if isinstance(error, StorageError):
                raise
            raise RowsError(f"{file}: not readable as Parquet after row {number}: {error}.") from None
