"""A record with attributes -> the one text that the model sees. Who asks a served model must write it likewise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from records.entities import is_record, parse_record
from training.recipe import Records


def as_record(values: Mapping[str, Any], column: str) -> Any:
    """What `column` holds: an attribute mapping where it is one or is written `COL name VAL …`, else the value itself.

    `left_*` gathers the columns that begin with `left_` into a record. Raises KeyError: there is no such column;
    ValueError: a record that cannot be read.
    """
    if column.endswith("*"):
        prefix = column[:-1]
        record = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
        if not record:
            raise KeyError(column)
        return record
    value = values[column]
    return parse_record(value) if isinstance(value, str) and is_record(value) else value


def serialise(record: Mapping[str, Any], how: Records) -> str:
    """`named`: "title: iphone 4s; price: 199". `values`: "iphone 199". `layout`: "COL title VAL iphone COL price VAL".

    Attributes without a value are left out, but of `layout`. Raises ValueError for a value that is a list or mapping.
    """
    texts = {str(name): _scalar(name, value) for name, value in record.items()}
    if not any(texts.values()):
        return ""  # a record without any value is no text
    if how == "layout":
        return " ".join(f"COL {name} VAL {text}".rstrip() for name, text in texts.items())
    if how == "values":
        return " ".join(filter(None, texts.values()))
    return "; ".join(f"{name}: {text}" for name, text in texts.items() if text)


def _scalar(name: str, value: Any) -> str:
    if isinstance(value, Mapping | list | tuple):
        raise ValueError(f"the attribute {name!r} is a {type(value).__name__}, and a text or number is needed")
    return "" if value is None else " ".join(str(value).split())
