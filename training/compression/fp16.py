"""The step from fp32 to fp16, for encoders on GPUs (a generation model's cache is fp32)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from runtime.manifest import Format, Precision
from training.compression.step import GRAPH, Comparison, Context, Step


class Fp16(Step):
    """fp32 graph -> fp16 graph; held to fp32's scores or cosines on this machine's CPU."""

    consumes: ClassVar[Format] = "onnx"
    produces: ClassVar[Format] = "onnx"
    precision: ClassVar[Precision | None] = "fp16"
    compares: ClassVar[Comparison | None] = "largest"

    step: Literal["fp16"] = "fp16"
    tolerance: float = Field(default=0.01, gt=0)

    def apply(self, source: Path, directory: Path, context: Context) -> dict[str, Any]:
        """See Step."""
        from training.compression.half import halve_encoder

        return halve_encoder(source / GRAPH, directory / GRAPH)
