"""Which step lists a search tries: those of the recipe, or what its kind of model allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from training.compression.registry import STEPS, step_class
from training.compression.settings import Compress
from training.compression.step import Step, check_order

Candidates = dict[str, tuple[Step, ...]]


def candidates(kind: str, layers: int, settings: Compress) -> Candidates:
    """Name -> steps: `compress.candidates`, or precisions x vocabulary x layers kept, those cut being taught."""
    if settings.candidates:
        return dict(settings.candidates)
    lists: dict[str, list[dict[str, Any]]] = {"fp32": [{"step": "export"}], "int8": _ending("int8")}
    if kind == "generation":
        lists["int4"] = _ending("int4")
    else:
        lists |= _encoder_lists(layers)
    return {name: _read(steps) for name, steps in lists.items() if all(each["step"] in STEPS for each in steps)}


def _encoder_lists(layers: int) -> dict[str, list[dict[str, Any]]]:
    vocabulary = {"step": "vocabulary"}
    lists = {"vocabulary, int8": [vocabulary, *_ending("int8")]}
    kept = layers
    while kept > 1:
        kept //= 2
        cut: list[dict[str, Any]] = [{"step": "layers", "keep": kept}, {"step": "distill"}]
        name = f"{kept} layer{'s' if kept > 1 else ''}"
        lists[f"{name}, int8"] = [*cut, *_ending("int8")]
        lists[f"vocabulary, {name}, int8"] = [vocabulary, *cut, *_ending("int8")]
    return lists


def _ending(precision: str) -> list[dict[str, Any]]:
    return [{"step": "export"}, {"step": precision}]


def _read(steps: Sequence[dict[str, Any]]) -> tuple[Step, ...]:
    read = tuple(step_class(each["step"]).model_validate(each) for each in steps)
    check_order(read)
    return read
