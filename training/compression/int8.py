"""The step from fp32 to int8, for CPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from runtime.manifest import Format, Kind, Precision, read_manifest
from training.compression.step import GRAPH, Comparison, Context, Step


class Int8(Step):
    """fp32 graph -> int8 graph; held to fp32's scores or cosines in the mean, or to its perplexity."""

    consumes: ClassVar[Format] = "onnx"
    produces: ClassVar[Format] = "onnx"
    kinds: ClassVar[tuple[Kind, ...]] = ("matching", "embedding", "generation")
    precision: ClassVar[Precision | None] = "int8"
    compares: ClassVar[Comparison | None] = "typical"

    step: Literal["int8"] = "int8"
    tolerance: float = Field(default=0.05, gt=0)

    def apply(self, source: Path, directory: Path, context: Context) -> dict[str, Any]:
        """See Step."""
        from training.compression.quantization import quantize_decoder, quantize_encoder

        quantize = quantize_decoder if read_manifest(source).kind == "generation" else quantize_encoder
        return quantize(source / GRAPH, directory / GRAPH)
