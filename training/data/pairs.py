"""Rows of files -> labelled pairs; what does not fit is rejected with its place and the reason."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from records.rows import BadRow, Format, read_rows
from training.data.errors import DataError
from training.data.serialisation import as_record, serialise
from training.recipe import PairData, RowData

Parsed = TypeVar("Parsed")
LISTED = 10  # bad rows that are named


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """One usable row. `where` is file:line."""

    text_a: str
    text_b: str
    label: str
    where: str = field(compare=False)

    @property
    def texts(self) -> tuple[str, str]:
        """Both."""
        return (self.text_a, self.text_b)


@dataclass(frozen=True, slots=True)
class Reject:
    """One row that cannot be used. `reason` has no values of the row in it, so that reasons can be counted."""

    where: str
    reason: str
    detail: str
    row: Mapping[str, Any]  # its values; `raw` alone where it could not be parsed

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}{f' ({self.detail})' if self.detail else ''}"


class Unusable(Exception):
    """A row that is rejected, for `reason`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def read_pairs(url: str, settings: PairData) -> tuple[list[LabelledPair], list[Reject]]:
    """Every row below `url` as a pair or a reject. Raises what records raises for a source that cannot be opened."""
    return read_rows_of(url, settings, partial(_pair, settings))


def read_rows_of(
    url: str, settings: RowData, parse: Callable[[Mapping[str, Any], str], Parsed]
) -> tuple[list[Parsed], list[Reject]]:
    """`read_as` in the settings' encoding and format; a .txt file is Ditto's."""
    by_ending: Format | None = "ditto" if url.lower().endswith((".txt", ".txt.gz")) else None
    return read_as(url, parse, encoding=settings.encoding, format=settings.format or by_ending)


def read_as(
    url: str, parse: Callable[[Mapping[str, Any], str], Parsed], *, encoding: str, format: Format | None = None
) -> tuple[list[Parsed], list[Reject]]:
    """Every row below `url` as `parse` makes it of its values and place, or as a reject where that raises Unusable."""
    found: list[Parsed] = []
    rejects: list[Reject] = []
    for row in read_rows(url, encoding=encoding, format=format):
        where = f"{row.file}:{row.line}"
        if isinstance(row, BadRow):
            rejects.append(Reject(where, "unreadable row", row.reason, {"raw": row.raw}))
            continue
        try:
            found.append(parse(row.values, where))
        except Unusable as problem:
            rejects.append(Reject(where, problem.reason, problem.detail, row.values))
    return found, rejects


def read_checked(
    key: str, source: str, data: RowData, read: Callable[[], tuple[list[Parsed], list[Reject]]]
) -> tuple[list[Parsed], list[Reject]]:
    """What `read` finds in `source`, the recipe's data.`key`: rows and rejects, as many as the recipe allows.

    Raises DataError.
    """
    try:
        rows, rejected = read()
    except (OSError, ValueError) as error:
        raise DataError(f"data.{key} {source!r} cannot be read: {error}") from None
    total = len(rows) + len(rejected)
    if not total:
        raise DataError(f"data.{key} {source!r} has no rows.")
    if rejected and data.bad_rows == "fail":
        raise DataError(
            f"data.{key}: {len(rejected)} of {total} rows cannot be used:\n{_listed(rejected)}\n"
            f"Correct them, or put them aside with data.bad_rows=reject.{_column_hint(key, data, rows, rejected)}"
        )
    if len(rejected) > data.max_reject_share * total:
        raise DataError(
            f"data.{key}: {len(rejected)} of {total} rows ({len(rejected) / total:.1%}) cannot be used, and "
            f"data.max_reject_share is {data.max_reject_share:.1%}:\n{_listed(rejected)}"
            f"{_column_hint(key, data, rows, rejected)}"
        )
    if not rows:
        raise DataError(f"data.{key} {source!r}: none of its {total} rows can be used.")
    return rows, rejected


def _listed(rejected: Sequence[Reject]) -> str:
    rest = f"\n  … and {len(rejected) - LISTED} more" if len(rejected) > LISTED else ""
    return "\n".join(f"  {reject}" for reject in rejected[:LISTED]) + rest


def _column_hint(key: str, data: RowData, rows: Sequence[object], rejected: Sequence[Reject]) -> str:
    if rows or not rejected[0].reason.startswith("no column"):
        return ""
    of_groups = ("text", "group")
    names = [name for name in type(data.columns).model_fields if (name in of_groups) == (key == "groups")]
    return f" If the columns have other names, say so: {' '.join(f'data.columns.{name}=…' for name in names)}"


def _pair(settings: PairData, values: Mapping[str, Any], where: str) -> LabelledPair:
    columns = settings.columns
    text_a, text_b = (text_of(values, column, settings) for column in (columns.text_a, columns.text_b))
    return LabelledPair(text_a, text_b, _label(values, columns.label, settings.labels), where)


def value_of(values: Mapping[str, Any], column: str) -> Any:
    """A column of the row. Raises Unusable where there is none."""
    if column not in values:
        raise _no_column(values, column)
    return values[column]


def _no_column(values: Mapping[str, Any], column: str) -> Unusable:
    return Unusable(f"no column {column!r}", f"it has {', '.join(map(repr, values)) or 'none'}")


def text_of(values: Mapping[str, Any], column: str, settings: RowData) -> str:
    """A text of the row, or its record as a text. Raises Unusable."""
    try:
        value = as_record(values, column)
        if isinstance(value, Mapping):
            value = serialise(value, settings.records)
    except KeyError:
        raise _no_column(values, column) from None
    except ValueError as error:
        raise Unusable(f"{column} is no record", str(error)) from None
    if not isinstance(value, str):
        raise Unusable(f"{column} is not text", f"{type(value).__name__} {_short(value)}")
    if not value.strip():
        raise Unusable(f"{column} is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Unusable(f"{column} is not well-formed Unicode", "a lone surrogate") from None
    return value


def _label(values: Mapping[str, Any], column: str, known: Sequence[str]) -> str:
    value = value_of(values, column)
    if value is None or value == "":
        raise Unusable(f"{column} is empty")
    label = label_text(value)
    if label is None or label not in known:
        raise Unusable(f"unknown {column}", f"{_short(value)}, known are {', '.join(known)}")
    return label


def label_text(value: Any) -> str | None:
    """A label as the recipe writes it: 1, 1.0 and "1" are "1", true is "true"; None for what is no label at all."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int | float):
        return str(value)
    return value.strip() if isinstance(value, str) else None


def sha256_of(rows: Sequence[LabelledPair]) -> str:
    """Digest over the rows in their order, whatever files and columns they came from."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.text_a, row.text_b, row.label], ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"
