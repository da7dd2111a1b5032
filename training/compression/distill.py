"""The step that teaches: a checkpoint learns to answer as a teacher does, on the recipe's texts and further ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from runtime.errors import InvalidInput
from runtime.manifest import Format, read_manifest
from training.compression.step import Context, Step
from training.distillation.settings import WEIGHTS, Distillation
from training.recipe import Train

ANSWERS = "answers"  # folder beside the steps' own: the students of one teacher share what it said


class Distill(Step, Distillation):
    """Trains the source as a student; the network and its tokenizer stay what they are."""

    consumes: ClassVar[Format] = "torch"
    produces: ClassVar[Format] = "torch"

    step: Literal["distill"] = "distill"
    dropout: float = Field(default=0.0, ge=0, lt=1)  # a student that is too small to learn texts by heart needs none
    train: Train | None = None  # None: the recipe's

    def untrained(self) -> None:
        """See Step."""

    def inputs(self, context: Context) -> dict[str, str]:
        """The teacher, and the file of unlabelled texts."""
        from training.distillation.texts import unlabelled_sha256

        unlabelled = {"unlabelled": unlabelled_sha256(self.unlabelled)} if self.unlabelled else {}
        return {"teacher": read_manifest(self._teacher(context)).digest, **unlabelled}

    def apply(self, source: Path, directory: Path, context: Context) -> dict[str, Any]:
        """See Step."""
        from training.compression.fine_tuning import artifact_task, fit
        from training.data.splits import PairSplits
        from training.distillation.task import distilling
        from training.distillation.teacher import Teacher, check_kinds
        from training.distillation.texts import further_inputs, labelled_inputs
        from training.recipe import PairData

        if context.recipe is None or not isinstance(context.splits, PairSplits):
            raise InvalidInput("distill needs texts to ask about: compress a recipe with data, not a folder.")
        assert isinstance(context.recipe.data, PairData)
        manifest = read_manifest(source)
        teacher = Teacher(self._teacher(context), context.work.parent / ANSWERS)
        check_kinds(teacher.manifest, manifest.kind, manifest.labels)
        train = self.train or context.recipe.train
        task = artifact_task(source, context, train, self.dropout)
        further = further_inputs(self, context.recipe.data, context.splits, context.seed)
        context.log(f"distill: {len(task.train)} labelled inputs, {len(further)} further; teacher {teacher.directory}")
        lesson = distilling(
            task,
            manifest.kind,
            labelled_inputs(context.splits),
            further,
            teacher,
            self,
            max_tokens=manifest.max_tokens,
            positive=1 if manifest.positive_label is None else manifest.positive_label,
            log=context.log,
        )
        best = fit(lesson, train, directory, context)
        weights = {name: value for name in WEIGHTS if (value := getattr(self, name))}
        return {"teacher": teacher.manifest.digest, "weights": weights, "further": len(further), "best": best}

    def _teacher(self, context: Context) -> Path:
        return Path(self.teacher) if self.teacher else context.checkpoint
