"""The step that trains a checkpoint for its int8 form: quantisation-aware training (Jacob et al., arXiv:1712.05877)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from runtime.errors import InvalidInput
from runtime.manifest import Format, read_manifest
from training.compression.recovery import Recover
from training.compression.step import Context, Step

if TYPE_CHECKING:
    from training.task import Task

ANSWERS = "answers"  # below the step's work folder


class Qat(Step, Recover):
    """Further training with the roundings of the dynamic int8 graph in the network; its weights stay fp32."""

    consumes: ClassVar[Format] = "torch"
    produces: ClassVar[Format] = "torch"

    step: Literal["qat"] = "qat"
    labels: float = Field(default=1.0, ge=0)  # weight of the recipe's loss
    outputs: float = Field(default=0.0, ge=0)  # of what the source itself answered, before the roundings

    @model_validator(mode="after")
    def _something_to_learn(self) -> Qat:
        if not self.labels and not self.outputs:
            raise ValueError("nothing to learn: give labels or outputs a weight")
        return self

    def untrained(self) -> None:
        """See Step."""

    def apply(self, source: Path, directory: Path, context: Context) -> dict[str, Any]:
        """See Step."""
        from models.bi_encoder import set_dropout
        from training.compression.fake_quantization import quantize_as_int8
        from training.compression.fine_tuning import artifact_task, fit

        if context.recipe is None:
            raise InvalidInput("qat needs labelled data: compress a recipe, not a folder.")
        train = self.of(context.recipe.train)
        task = artifact_task(source, context, train)
        set_dropout(task.model, 0.0)  # it scales what stays up: the ranges would not be those of the graph
        layers = quantize_as_int8(task.model)
        lesson = self._taught(task, source, context) if self.outputs else task
        return {"layers": layers, "best": fit(lesson, train, directory, context)}

    def _taught(self, task: Task, source: Path, context: Context) -> Task:
        from training.data.splits import PairSplits
        from training.distillation.settings import Distillation
        from training.distillation.task import distilling
        from training.distillation.teacher import Teacher
        from training.distillation.texts import labelled_inputs

        assert isinstance(context.splits, PairSplits)
        manifest = read_manifest(source)
        return distilling(
            task,
            manifest.kind,
            labelled_inputs(context.splits),
            (),
            Teacher(source, context.work / ANSWERS),
            Distillation(outputs=self.outputs, labels=self.labels),
            max_tokens=manifest.max_tokens,
            log=context.log,
        )
