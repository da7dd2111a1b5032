"""What a correction is worth: the recipe is trained on the data before and after it, over seeds, and judged on the same
test rows. The difference comes with a paired bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from records.document import read_document
from runtime.encoder import EncoderEngine
from runtime.errors import InvalidInput
from runtime.load import load_engine
from training.bootstrap import Range, interval, paired_difference
from training.data.splits import PairSplits, load_splits
from training.evaluate import as_pairs, score_pairs
from training.recipe import Recipe
from training.review.version import RECIPE_FILE

EFFECT_FILE, METRICS = "effect.json", ("f1", "roc_auc")


class Gain(BaseModel):
    """One metric on test, mean over the seeds: before, after, and how much better."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    before: Range
    after: Range
    difference: Range


def gain(
    metric: str,
    before: tuple[np.ndarray, Sequence[float]],
    after: tuple[np.ndarray, Sequence[float]],
    truth: Sequence[int],
) -> Gain:
    """`before`, `after`: scores (S, N) of S seeds with their thresholds; `truth` (N,). Raises ValueError: one class."""
    return Gain(
        before=Range.of(interval(metric, before[0], truth, before[1])),
        after=Range.of(interval(metric, after[0], truth, after[1])),
        difference=Range.of(paired_difference(metric, after[0], before[0], truth, after[1], before[1])),
    )


def measure_effect(recipe: Recipe, version: Path, seeds: int) -> dict[str, Gain]:
    """Train `recipe` and the recipe of the folder `version` with each of `seeds` seeds; runs lie in VERSION/effect.

    Both are judged on the version's test. Raises what training raises; InvalidInput for a folder that is no version.
    """
    if not (version / RECIPE_FILE).is_file():
        raise InvalidInput(f"{version} is no version of a data set: it has no {RECIPE_FILE}.")
    corrected = read_document(version / RECIPE_FILE, Recipe)
    splits = load_splits(corrected)
    if not isinstance(splits, PairSplits):
        raise InvalidInput("Only labelled pairs can be reviewed.")
    pairs, truth = as_pairs(splits.test, splits.positive)
    scores: dict[str, list[np.ndarray]] = {"before": [], "after": []}
    thresholds: dict[str, list[float]] = {"before": [], "after": []}
    for seed in range(recipe.seed, recipe.seed + seeds):
        for side, one in (("before", recipe), ("after", corrected)):
            checkpoint = _trained(
                one.model_copy(update={"name": f"{side}-{seed}", "seed": seed, "runs": version / "effect"})
            )
            engine = load_engine(checkpoint)
            try:
                assert isinstance(engine, EncoderEngine)
                scores[side].append(np.array(score_pairs(engine, pairs)))
                thresholds[side].append(engine.manifest.threshold or 0.5)
            finally:
                engine.close()
    sides = {side: (np.stack(scores[side]), thresholds[side]) for side in scores}
    return {metric: gain(metric, sides["before"], sides["after"], truth) for metric in METRICS}


def _trained(recipe: Recipe) -> Path:
    from training.train import train

    return train(recipe).checkpoint
