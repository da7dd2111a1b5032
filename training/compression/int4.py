"""The step from fp32 to int4, of generation models: weights alone, whose way from memory is what a token waits for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from runtime.manifest import Format, Kind, Precision
from training.compression.step import Comparison, Context, Step


class Int4(Step):
    """fp32 graph -> weights of 4 bits with a scale a block, embeddings of 8; held to fp32's perplexity."""

    consumes: ClassVar[Format] = "onnx"
    produces: ClassVar[Format] = "onnx"
    kinds: ClassVar[tuple[Kind, ...]] = ("generation",)
    precision: ClassVar[Precision | None] = "int4"
    compares: ClassVar[Comparison | None] = "typical"
    takes_source: ClassVar[bool] = True

    step: Literal["int4"] = "int4"
    tolerance: float = Field(default=0.03, gt=0)
    block: Literal[32, 64, 128] = 32  # weights that share a scale: fewer are nearer to fp32, and larger

    def apply(self, source: Path, directory: Path, context: Context) -> dict[str, Any]:
        """See Step."""
        from training.compression.quantization import quantize_generation

        return quantize_generation(source, directory, bits=4, block=self.block)
