"""Steps that take something away from a network, and the training that follows on the recipe's data."""

from __future__ import annotations

import shutil
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from runtime.errors import InvalidInput
from runtime.manifest import MANIFEST_FILE, Format
from training.compression.step import Context, Step
from training.section import Section

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from training.recipe import Recipe, Train

CUT = "cut"  # folder below the step's work: what the training starts from


class Recover(Section):
    """A short training with the recipe's loss; to learn from a teacher instead, put a distill step behind."""

    steps: int = Field(gt=0)
    learning_rate: float = Field(default=5e-5, gt=0)

    def of(self, train: Train) -> Train:
        """The recipe's training with these settings."""
        changed = {"steps": self.steps, "learning_rate": self.learning_rate, "warmup_steps": None}
        return train.model_copy(update=changed | {"validate_every": min(train.validate_every, self.steps)})


class Reduction(Step):
    """Takes the network of a checkpoint, takes something away from it, and trains what is left."""

    consumes: ClassVar[Format] = "torch"
    produces: ClassVar[Format] = "torch"

    recover: Recover | None = None  # None: leave it as it is

    @abstractmethod
    def reduce(
        self, network: PreTrainedModel, source: Path, context: Context
    ) -> tuple[PreTrainedModel, dict[str, Any]]:
        """The reduced network, and what was done. Raises ValueError: a network that this cannot be done with."""

    def hold(self, network: nn.Module) -> None:
        """Called before the training, for what it must not undo."""

    def untrained(self) -> Step:
        """See Step."""
        return self.model_copy(update={"recover": None}) if self.recover else self

    def apply(self, source: Path, directory: Path, context: Context) -> dict[str, Any]:
        """See Step."""
        from training.compression.fine_tuning import artifact_task, fit
        from training.compression.network import load_network, transformer_in, write_network

        try:
            reduced, done = self.reduce(load_network(source), source, context)
        except ValueError as error:
            raise InvalidInput(f"{self.step}: {error}") from None
        if self.recover is None:
            write_network(reduced, source, directory)
            return done
        train = self.recover.of(self.recipe(context).train)
        cut = context.work / CUT
        shutil.rmtree(cut, ignore_errors=True)
        cut.mkdir(parents=True)
        write_network(reduced, source, cut)
        shutil.copyfile(source / MANIFEST_FILE, cut / MANIFEST_FILE)
        task = artifact_task(cut, context, train)
        self.hold(transformer_in(task.model))
        return done | {"recovery": fit(task, train, directory, context)}

    def recipe(self, context: Context) -> Recipe:
        """The context's. Raises InvalidInput for a folder that came without."""
        if context.recipe is None:
            raise InvalidInput(f"{self.step} needs labelled data: compress a recipe, not a folder.")
        return context.recipe
