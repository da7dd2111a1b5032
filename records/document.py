"""A YAML document and `key=value` overrides in, checked settings out; every problem named, with a suggestion."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)


class DocumentError(ValueError):
    """The document cannot be used; the message lists every problem, one a line."""


def read_document(path: Path, model: type[M], overrides: Iterable[str] = ()) -> M:
    """Parse the YAML file `path`, apply `a.b=value` overrides (values are YAML) and validate it as `model`.

    Raises DocumentError: unreadable file, bad YAML, unknown key (with the nearest known one), bad value.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DocumentError(f"{path}: no such file.") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise DocumentError(f"{path}: cannot be read: {error}") from None
    if not isinstance(raw, dict):
        raise DocumentError(f"{path}: a mapping of keys is needed, found {type(raw).__name__}.")
    for override in overrides:
        _apply(raw, override)
    return check_document(raw, model, str(path))


def check_document(raw: Mapping[str, Any], model: type[M], source: str) -> M:
    """Validate `raw` as `model`. Raises DocumentError listing every problem, with the nearest known key."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        problems = [_explain(problem, raw, model) for problem in error.errors()]
        raise DocumentError("\n".join(f"{source}: {problem}" for problem in problems)) from None


def _apply(raw: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise DocumentError(f"{override!r} is not an override; write key=value, for example train.steps=100.")
    *parents, last = key.split(".")
    node = raw
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise DocumentError(f"{override!r}: {parent!r} is a value, not a section.")
        node = child
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DocumentError(f"{override!r}: the value is not YAML: {error}") from None


def _explain(problem: Any, raw: Mapping[str, Any], model: type[BaseModel]) -> str:
    location = _written(raw, problem["loc"], missing=problem["type"] == "missing")
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        known = _keys_at(model, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}."
        return f"unknown key {key!r}; {hint}"
    value = problem.get("input")
    shown = "" if problem["type"] == "missing" or isinstance(value, dict) else f" (got {value!r})"
    # pydantic puts this before what our own validators say.
    return f"{key or 'document'}: {problem['msg'].removeprefix('Value error, ')}{shown}"


def _written(raw: Any, location: Sequence[str | int], missing: bool) -> list[str]:
    """The place as the document has it: pydantic also names the union member that it took, which is no key there."""
    names = []
    node = raw
    for index, part in enumerate(location):
        if isinstance(node, Mapping):
            is_missing_key = missing and index == len(location) - 1
            if part not in node and not is_missing_key:
                continue
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int):
            node = node[part]
        names.append(str(part))
    return names


def _keys_at(model: type[BaseModel], location: list[str]) -> list[str]:
    """Field names of the (nested) model that `location` points at; list positions and union tags are passed over."""
    current = [model]
    for part in location:
        below: list[type[BaseModel]] = []
        for each in current:
            field = each.model_fields.get(part)
            below += _models_in(field.annotation) if field else []
        current = below or current
    return [name for each in current for name in each.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
