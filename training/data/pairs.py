"""Rows of files -> labelled pairs; what does not fit is rejected with its place and the reason."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from records.rows import BadRow, read_rows
from training.data.serialisation import as_record, serialise
from training.recipe import PairData


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """One usable row. `where` is file:line."""

    text_a: str
    text_b: str
    label: str
    where: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Reject:
    """One row that cannot be used. `reason` has no values of the row in it, so that reasons can be counted."""

    where: str
    reason: str
    detail: str
    row: Mapping[str, Any]  # its values; `raw` alone where it could not be parsed

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}{f' ({self.detail})' if self.detail else ''}"


class _Unusable(Exception):
    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def read_pairs(url: str, settings: PairData) -> tuple[list[LabelledPair], list[Reject]]:
    """Every row below `url` as a pair or a reject. Raises what records raises for a source that cannot be opened."""
    pairs: list[LabelledPair] = []
    rejects: list[Reject] = []
    by_ending = "ditto" if url.lower().endswith((".txt", ".txt.gz")) else None
    for row in read_rows(url, encoding=settings.encoding, format=settings.format or by_ending):
        where = f"{row.file}:{row.line}"
        if isinstance(row, BadRow):
            rejects.append(Reject(where, "unreadable row", row.reason, {"raw": row.raw}))
            continue
        try:
            pairs.append(_pair(row.values, settings, where))
        except _Unusable as problem:
            rejects.append(Reject(where, problem.reason, problem.detail, row.values))
    return pairs, rejects


def _pair(values: Mapping[str, Any], settings: PairData, where: str) -> LabelledPair:
    columns = settings.columns
    text_a, text_b = (_text(values, column, settings) for column in (columns.text_a, columns.text_b))
    return LabelledPair(text_a, text_b, _label(values, columns.label, settings.labels), where)


def _value(values: Mapping[str, Any], column: str) -> Any:
    if column not in values:
        raise _no_column(values, column)
    return values[column]


def _no_column(values: Mapping[str, Any], column: str) -> _Unusable:
    return _Unusable(f"no column {column!r}", f"it has {', '.join(map(repr, values)) or 'none'}")


def _text(values: Mapping[str, Any], column: str, settings: PairData) -> str:
    try:
        value = as_record(values, column)
        if isinstance(value, Mapping):
            value = serialise(value, settings.records)
    except KeyError:
        raise _no_column(values, column) from None
    except ValueError as error:
        raise _Unusable(f"{column} is no record", str(error)) from None
    if not isinstance(value, str):
        raise _Unusable(f"{column} is not text", f"{type(value).__name__} {_short(value)}")
    if not value.strip():
        raise _Unusable(f"{column} is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Unusable(f"{column} is not well-formed Unicode", "a lone surrogate") from None
    return value


def _label(values: Mapping[str, Any], column: str, known: Sequence[str]) -> str:
    value = _value(values, column)
    if value is None or value == "":
        raise _Unusable(f"{column} is empty")
    label = label_text(value)
    if label is None or label not in known:
        raise _Unusable(f"unknown {column}", f"{_short(value)}, known are {', '.join(known)}")
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
