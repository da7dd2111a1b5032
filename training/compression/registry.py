"""Which compression steps there are. One is a line here and a class; nothing heavy is imported until it is applied."""

from __future__ import annotations

import difflib
import importlib
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from training.compression.step import Step

# step -> "module:class"
STEPS = {
    "distill": "training.compression.distill:Distill",
    "export": "training.compression.export:Export",
    "fp16": "training.compression.fp16:Fp16",
    "int4": "training.compression.int4:Int4",
    "int8": "training.compression.int8:Int8",
    "layers": "training.compression.prune:Layers",
    "heads": "training.compression.prune:Heads",
    "ffn": "training.compression.prune:Ffn",
    "magnitude": "training.compression.sparsify:Magnitude",
    "sparse-2-4": "training.compression.sparsify:Sparse24",
    "qat": "training.compression.qat:Qat",
    "vocabulary": "training.compression.vocabulary:Vocabulary",
    "student": "training.compression.student:Student",
}


def step_class(name: str) -> type[Step]:
    """The settings class of a step. Raises ValueError, which names the nearest one, for a step that there is not."""
    if name not in STEPS:
        near = difflib.get_close_matches(name, STEPS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(STEPS))}."
        raise ValueError(f"unknown step {name!r}; {hint}")
    module, _, class_name = STEPS[name].partition(":")
    found: type[Step] = getattr(importlib.import_module(module), class_name)
    return found


def _read_step(value: Any) -> Step:
    if isinstance(value, Step):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("step"), str):
        raise ValueError(f"a step is written as {{step: NAME, …}}, with NAME one of {', '.join(sorted(STEPS))}")
    return step_class(value["step"]).model_validate(value)


# Written out with all that its class has, read back as that class.
AnyStep = Annotated[SerializeAsAny[Step], BeforeValidator(_read_step)]
