"""The contract of compression steps: settings that know how to make one artifact directory out of another.

A step writes the model; `training/compression/artifact.py` makes an artifact of it: tokenizer, manifest, threshold,
parity with its parent, size, latency, quality and memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from runtime.manifest import Format, Kind, Manifest, Precision
from training.section import Section

if TYPE_CHECKING:  # the recipe is made of steps
    from training.compression.probe import Probe
    from training.data.splits import Splits
    from training.recipe import Recipe

# How outputs are compared with the parent's: the largest difference, the mean one, or not at all.
Comparison = Literal["largest", "typical"]
ENCODERS: tuple[Kind, ...] = ("matching", "embedding")
GRAPH = "model.onnx"  # what a step that produces "onnx" writes
ENCODER_GRAPH = "encoder.onnx"  # and besides, of an encoder-decoder, whose decoder is GRAPH
COMPRESSED = "compressed"  # folder of a run in which pipelines make their artifacts


@dataclass(frozen=True, slots=True)
class Context:
    """What a step may use besides its source. `recipe` and `splits` are None for a folder that came without data."""

    checkpoint: Path  # where the pipeline begins: the artifact of format "torch" that all others descend from
    probe: Probe
    work: Path  # the step's own folder: survives a kill, so that a training goes on; gone when the step is done
    seed: int = 7
    recipe: Recipe | None = None
    splits: Splits | None = None
    log: Callable[[str], None] = print


class Step(Section, ABC):
    """One compression step.

    A subclass narrows `step` to its name (`Literal["layers"] = "layers"`), adds its settings, says in the class
    variables what it takes and gives, and gets a line in `training/compression/registry.py`.
    """

    consumes: ClassVar[Format]
    produces: ClassVar[Format]
    kinds: ClassVar[tuple[Kind, ...]] = ENCODERS
    precision: ClassVar[Precision | None] = None  # what it makes of fp32; None: leaves it as it is
    compares: ClassVar[Comparison | None] = None
    takes_source: ClassVar[bool] = False  # whether it works on encoder-decoders

    step: str
    tolerance: float | None = None  # how far the outputs may be from the parent's; None: any distance

    @abstractmethod
    def apply(self, source: Path, directory: Path, context: Context) -> dict[str, Any]:
        """Write the model made from the artifact `source` into the empty `directory`; returns what was done, for the
        manifest (JSON values).

        "torch": a whole transformers or sentence-transformers folder, tokenizer included. "onnx": GRAPH alone, and
        ENCODER_GRAPH where there is one.
        Raises InvalidInput where the source is not one that the step can work on.
        """

    def changed(self, parent: Manifest, done: dict[str, Any]) -> dict[str, Any]:
        """Fields of the manifest that are not the parent's, given what `apply` returned."""
        return {}

    def untrained(self) -> Step | None:
        """The step without its training: what it makes has the same size and speed. None: it does nothing else. Itself
        where it trains nothing."""
        return self

    def inputs(self, context: Context) -> Mapping[str, str]:
        """Digests of what the step reads besides its source (a teacher, a file): another one, and it is run again."""
        return {}


def check_order(steps: Sequence[Step]) -> None:
    """Raises ValueError where a step cannot take what the one before it makes; the first takes the checkpoint."""
    made, precision, before = "torch", "fp32", "the checkpoint"
    for step in steps:
        if step.consumes != made:
            missing = "an export between them" if made == "torch" else f"{step.step} before the export"
            raise ValueError(f"step {step.step} takes {step.consumes}, and {before} is {made}; put {missing}")
        if step.precision and precision != "fp32":
            raise ValueError(f"step {step.step} takes fp32, and {before} is {precision}; choose one of the two")
        made, precision, before = step.produces, step.precision or precision, step.step
