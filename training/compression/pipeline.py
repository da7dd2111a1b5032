"""Runs steps one after the other, each artifact in a folder of its own below RUN/compressed.

A folder is named by what it depends on: its parent's files, the step's settings, the data, the seed. What is there
already is not made again, by whatever list of steps it is reached.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.errors import ArtifactRefused, InvalidInput
from runtime.manifest import MANIFEST_FILE, read_manifest, verify
from training.compression.artifact import describe, make_artifact
from training.compression.probe import make_probe, split_probe, vocabulary_texts
from training.compression.step import COMPRESSED, Context, Step
from training.data.splits import load_splits
from training.recipe import Recipe

KEY_LENGTH = 10


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Makes artifacts of `context.checkpoint` below `folder`."""

    folder: Path
    context: Context

    def run(self, steps: Sequence[Step]) -> list[Path]:
        """The artifact of each step, in order. Raises InvalidInput, ParityError and what the steps raise."""
        made: list[Path] = []
        for place, step in enumerate(steps, 1):
            source = made[-1] if made else self.context.checkpoint
            made.append(self._made(step, source, place))
        return made

    def found(self, steps: Sequence[Step]) -> Path | None:
        """The artifact of the last step where all are there already."""
        source = self.context.checkpoint
        for place, step in enumerate(steps, 1):
            source = self._target(step, source, place)
            if not is_whole(source):
                return None
        return source

    def _target(self, step: Step, source: Path, place: int) -> Path:
        return self.folder / f"{place}-{step.step}-{self.key(step, source)}"

    def _made(self, step: Step, source: Path, place: int) -> Path:
        target = self._target(step, source, place)
        if is_whole(target):
            self.context.log(f"{step.step}: there already, {target}")
            return target
        work = self.folder / f".work-{target.name}"
        work.mkdir(parents=True, exist_ok=True)
        self.context.log(describe(make_artifact(step, source, target, replace(self.context, work=work))))
        shutil.rmtree(work)
        return target

    def key(self, step: Step, source: Path) -> str:
        """Names what `step` makes of `source`: the same key, the same artifact."""
        splits = self.context.splits
        depends_on = {
            "parent": read_manifest(source).digest,
            "step": step.model_dump(mode="json"),
            "inputs": dict(step.inputs(self.context)),
            "data": {split: splits.sha256(split) for split in ("train", "valid")} if splits else {},
            "seed": self.context.seed,
        }
        text = json.dumps(depends_on, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def is_whole(directory: Path) -> bool:
    """Whether an artifact is there that has not been damaged."""
    try:
        verify(directory)
    except ArtifactRefused:
        return False
    return True


def recipe_context(recipe: Recipe, log: Callable[[str], None]) -> Context:
    """The context of a trained run. Raises InvalidInput without a checkpoint, DataError."""
    checkpoint = recipe.run / "checkpoint"
    if not (checkpoint / MANIFEST_FILE).is_file():
        raise InvalidInput(
            f"{recipe.run} has no checkpoint yet; run `python -m training train` with this recipe first."
        )
    splits = load_splits(recipe)
    return Context(
        checkpoint=checkpoint,
        probe=split_probe(checkpoint, splits),
        work=recipe.run / COMPRESSED,
        seed=recipe.seed,
        recipe=recipe,
        splits=splits,
        log=log,
    )


def folder_context(checkpoint: Path, log: Callable[[str], None]) -> Context:
    """The context of a checkpoint that came without data: judged on texts made of its own vocabulary."""
    probe = make_probe(checkpoint, vocabulary_texts(checkpoint))
    return Context(checkpoint=checkpoint, probe=probe, work=checkpoint.with_name(COMPRESSED), log=log)


def place_result(artifact: Path, run: Path) -> Path:
    """The artifact as RUN/PRECISION, where `evaluate` and `publish` look for it. Its files are shared, not copied."""
    target = run / read_manifest(artifact).precision
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(artifact, target, copy_function=_link)
    return target


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)
