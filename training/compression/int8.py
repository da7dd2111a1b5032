"""The step from fp32 to int8, for CPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from runtime.errors import InvalidInput
from runtime.manifest import Format, Kind, Precision, read_manifest
from training.compression.step import GRAPH, Comparison, Context, Step


class Int8(Step):
    """fp32 graph -> int8 graph; held to fp32's scores or cosines in the mean, or to its perplexity."""

    consumes: ClassVar[Format] = "onnx"
    produces: ClassVar[Format] = "onnx"
    kinds: ClassVar[tuple[Kind, ...]] = ("matching", "embedding", "generation")
    precision: ClassVar[Precision | None] = "int8"
    compares: ClassVar[Comparison | None] = "typical"
    takes_source: ClassVar[bool] = True

    step: Literal["int8"] = "int8"
    tolerance: float = Field(default=0.05, gt=0)
    form: Literal["dynamic", "static", "auto"] = "dynamic"  # auto: the fastest here whose quality is within the gate
    per_channel: bool = True  # a scale for each output of a matrix, or one for all
    reduce_range: bool = False  # weights of 7 bits: sums of two products then fit 16 bits, which is all some CPUs have
    equalize: bool = True  # outlier channels of activations made smaller, their weights larger; where there is data
    calibration: int = Field(default=128, gt=0)  # rows of train, on which the extremes of activations are found
    gate: float = Field(default=0.995, gt=0, le=1)  # auto: smallest share of the parent's F1 and average precision

    def untrained(self) -> Step:
        """See Step; what `auto` chooses is no slower than the dynamic form, and as large."""
        return self.model_copy(update={"form": "dynamic"}) if self.form == "auto" else self

    def inputs(self, context: Context) -> Mapping[str, str]:
        """What `auto` chooses on one CPU says nothing of another."""
        from training.hardware import this_machine

        return {"cpu": this_machine().cpu} if self.form == "auto" else {}

    def apply(self, source: Path, directory: Path, context: Context) -> dict[str, Any]:
        """See Step."""
        from training.compression.calibration import Feeds, calibration_inputs
        from training.compression.quantization import quantize_encoder, quantize_generation

        if read_manifest(source).kind == "generation":
            if (self.form, self.per_channel, self.reduce_range) != ("dynamic", True, False):
                raise InvalidInput("int8 of generation has one form: leave out form, per_channel, reduce_range.")
            return quantize_generation(source, directory)
        if self.form == "auto":
            from training.compression.variants import choose_variant

            return choose_variant(self, source, directory, context)
        inputs: Sequence[Feeds] = ()
        if self.form == "static" or (self.equalize and context.splits is not None):
            inputs = calibration_inputs(source, context, self.calibration)
        return quantize_encoder(
            source / GRAPH,
            directory / GRAPH,
            static=self.form == "static",
            equalized=self.equalize,
            per_channel=self.per_channel,
            reduce_range=self.reduce_range,
            inputs=inputs,
        )
