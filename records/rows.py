"""Rows out of CSV, TSV, JSONL, Parquet, Ditto files, one by one; a row that cannot be read is an answer with its place.

Nothing is dropped: every record of a file comes out as a Row or a BadRow. Blank lines between records are not records.
Memory is bounded by MAX_LINE for text and by a row group for Parquet, however long the file.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, AnyStr, BinaryIO, Literal

from records.entities import parse_line
from records.storage import StorageError, list_files, open_seekable, open_stream

Format = Literal["csv", "tsv", "jsonl", "parquet", "ditto"]
# Ditto's `.txt` is not among them: most text files are no rows, so who expects that layout asks for it.
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
# Bytes (characters of UTF-16) of one line, and characters of one CSV field.
MAX_LINE = 16 << 20


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
    check_encoding(encoding)
    files = list_files(url)
    if not files:
        raise RowsError(f"{url}: there is nothing there to read.")
    for file in files:
        yield from read_file(file, encoding=encoding, format=format)


def check_encoding(encoding: str) -> None:
    """Raises RowsError for what is no encoding of text."""
    try:
        "".encode(encoding)
    except LookupError:
        raise RowsError(
            f"encoding {encoding!r} is not known to Python; try utf-8, utf-16, cp1252 or gb18030."
        ) from None


def read_file(file: str, *, encoding: str = "utf-8-sig", format: Format | None = None) -> Iterator[Row | BadRow]:
    """Every record of one file; see `read_rows`."""
    kind = format or format_of(file)
    if kind == "parquet":
        yield from _read_parquet(file)
        return
    with _text_lines(file, encoding) as lines:
        yield from _READERS[kind](file, lines)


def format_of(file: str) -> Format:
    """The format that a file's ending means. Raises RowsError naming the known ones."""
    name = file.lower().removesuffix(COMPRESSED)
    for ending, kind in ENDINGS.items():
        if name.endswith(ending) and not (kind == "parquet" and file.lower().endswith(COMPRESSED)):
            return kind
    raise RowsError(f"{file}: unknown ending; known are {', '.join(ENDINGS)} (and .gz of the text formats).")


# ---------------------------------------------------------------- text


class _Line(str):
    """A physical line, in which bytes that do not decode are lone surrogates. `cut`: it was longer than allowed."""

    cut = False


Lines = Iterator[_Line]


@contextmanager
def _text_lines(file: str, encoding: str) -> Iterator[Lines]:
    with open_stream(file) as stream:
        compressed = file.lower().endswith(COMPRESSED)
        plain: BinaryIO = gzip.GzipFile(fileobj=stream) if compressed else stream  # type: ignore[assignment]
        yield _decoded(file, plain, encoding)


def _decoded(file: str, stream: BinaryIO, encoding: str) -> Lines:
    # Lines are cut as bytes and decoded one by one, so that a byte that does not decode spoils its own row alone.
    # That is right for every encoding in which b"\n" is a newline; UTF-16 and UTF-32 go through a text stream.
    number = 0
    try:
        buffered = io.BufferedReader(stream)  # type: ignore[type-var]
        start = buffered.peek(4)[:4]
        if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # before UTF-16, whose mark begins it
            encoding = "utf-32"
        elif start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            encoding = "utf-16"
        elif start.startswith(codecs.BOM_UTF8):
            encoding = "utf-8-sig"
        name = codecs.lookup(encoding).name
        if name.startswith(("utf-16", "utf-32")):
            wide = io.TextIOWrapper(buffered, encoding, newline="\n")
            for text, cut in _bounded(wide.readline, "\n"):
                number += 1
                yield _line(text, cut)
            return
        codec = "utf-8" if name == "utf-8-sig" else encoding
        if start.startswith(codecs.BOM_UTF8):
            buffered.read(len(codecs.BOM_UTF8))
        for data, cut in _bounded(buffered.readline, b"\n"):
            number += 1
            yield _line(data.decode(codec, "surrogateescape"), cut)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise RowsError(f"{file}: the compressed data is damaged after line {number}: {error}.") from None
    except UnicodeDecodeError as error:
        raise RowsError(f"{file}: not {encoding} somewhere after line {number}: {error.reason}.") from None


def _bounded(readline: Callable[[int], AnyStr], newline: AnyStr) -> Iterator[tuple[AnyStr, bool]]:
    """(line, whether it was cut): a line longer than MAX_LINE loses its rest, so that memory stays bounded."""
    while line := readline(MAX_LINE):
        cut = len(line) == MAX_LINE and not line.endswith(newline)
        rest = line if cut else newline
        while rest and not rest.endswith(newline):
            rest = readline(MAX_LINE)
        yield line, cut


def _line(text: str, cut: bool) -> _Line:
    line = _Line(text)
    if cut:
        line.cut = True
    return line


def _fault(line: _Line) -> str | None:
    """What is wrong with a physical line, whatever the format."""
    if line.cut:
        return f"the line is longer than {MAX_LINE >> 20} MiB"
    if not line.isascii():
        place = next((at for at, character in enumerate(line) if "\udc80" <= character <= "\udcff"), None)
        if place is not None:
            return (
                f"byte 0x{ord(line[place]) - 0xDC00:02x} after {place} characters does not decode; check the encoding"
            )
    return "it holds a NUL character; is the file UTF-16?" if "\0" in line else None


def _shown(text: str) -> str:
    return text[:SHOWN_CHARACTERS].encode("utf-8", "backslashreplace").decode()


# ---------------------------------------------------------------- JSONL


def _read_lines(file: str, lines: Lines, parse: Callable[[str], dict[str, Any]]) -> Iterator[Row | BadRow]:
    """A row a line, blank ones left out. `parse` raises ValueError, whose text is the reason."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        reason = _fault(line)
        if reason is None:
            try:
                yield Row(file, number, parse(line))
                continue
            except ValueError as error:
                reason = str(error)
        yield BadRow(file, number, reason, _shown(line.rstrip("\r\n")))


def _parse_json(line: str) -> dict[str, Any]:
    try:
        values = json.loads(line, object_pairs_hook=_object, parse_constant=_no_number, parse_float=_number)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"a JSON object is needed, found {type(values).__name__}")
    return values


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return values


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is out of range")
    return number


# ---------------------------------------------------------------- CSV, TSV


class _Source:
    """Lines as csv.reader takes them, remembering those of the current record so that they can be given back."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._returned: list[_Line] = []
        self.number = 0  # of the last line handed out
        self.record: list[_Line] = []

    def __iter__(self) -> _Source:
        return self

    def __next__(self) -> str:
        line = self._returned.pop() if self._returned else next(self._lines)
        self.number += 1
        self.record.append(line)
        return line

    def give_back(self) -> None:
        """All lines of the record but its first stand before the reader again."""
        rest = self.record[1:]
        self._returned += reversed(rest)
        self.number -= len(rest)
        del self.record[1:]


@dataclass(frozen=True, slots=True)
class _Record:
    """One record of a CSV file: its fields, or what is wrong with it."""

    line: int
    fields: list[str]
    fault: str | None
    raw: str


def _records(lines: Lines, delimiter: str) -> Iterator[_Record]:
    csv.field_size_limit(MAX_LINE)  # of the whole process; Python's own, 128 KiB, is too little for documents
    source = _Source(lines)
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    while True:
        source.record.clear()
        first = source.number + 1
        fields: list[str] = []
        fault = None
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fault = f"not {'TSV' if delimiter == chr(9) else 'CSV'}: {str(error).partition(' - ')[0]}"
            if len(source.record) > 1:
                # A quote that is closed too late, or never, would take all rows up to there with it.
                fault += f", in a field that would reach from line {first} to {source.number}"
                source.give_back()
        fault = next(filter(None, map(_fault, source.record)), fault)
        if fields or fault:
            yield _Record(first, fields, fault, _shown("".join(source.record).rstrip("\r\n")))


def _read_csv(file: str, lines: Lines, *, delimiter: str) -> Iterator[Row | BadRow]:
    records = _records(lines, delimiter)
    header = _header(file, next(records, None))
    for record in records:
        fault = record.fault
        if fault is None and len(record.fields) != len(header):
            fault = f"{len(record.fields)} fields, the header has {len(header)}"
        if fault is None:
            yield Row(file, record.line, dict(zip(header, record.fields, strict=True)))
        else:
            yield BadRow(file, record.line, fault, record.raw)


def _header(file: str, record: _Record | None) -> list[str]:
    if record is None:
        raise RowsError(f"{file} is empty: a header line with the column names is needed.")
    if record.fault:
        raise RowsError(f"{file}:{record.line}: the header cannot be read: {record.fault}.")
    _check_names(f"{file}:{record.line}", record.fields)
    return record.fields


def _check_names(place: str, names: Sequence[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RowsError(f"{place}: the column {twice!r} stands twice in the header.")


# ---------------------------------------------------------------- Ditto


def _parse_ditto(line: str) -> dict[str, Any]:
    try:
        return dict(parse_line(line))
    except ValueError as error:
        raise ValueError(f"not Ditto's layout: {error}") from None


_READERS: dict[str, Callable[[str, Lines], Iterator[Row | BadRow]]] = {
    "csv": partial(_read_csv, delimiter=","),
    "tsv": partial(_read_csv, delimiter="\t"),
    "jsonl": partial(_read_lines, parse=_parse_json),
    "ditto": partial(_read_lines, parse=_parse_ditto),
}


# ---------------------------------------------------------------- Parquet


def _read_parquet(file: str) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    with open_seekable(file) as stream:
        number = 0
        try:
            source = parquet.ParquetFile(stream)
            _check_names(file, source.schema_arrow.names)
            for batch in source.iter_batches(PARQUET_BATCH_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(file, number, values)
        except (pyarrow.ArrowException, OSError) as error:
            if isinstance(error, StorageError):
                raise
            raise RowsError(f"{file}: not readable as Parquet after row {number}: {error}.") from None
