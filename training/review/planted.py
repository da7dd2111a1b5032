"""How many label errors would be found, and what correcting them is worth, measured on data whose errors are known: a
share of train's labels is changed at random, and the review looks for them.

The model whose gain is measured is cheap, so that seeds are: frozen vectors under a linear map (projection.py), the
threshold chosen on valid. "Corrected" is what a person makes of the sheet who looks at as many rows as were planted and
gives back the right label to those that were.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from training.data.splits import SPLITS, PairSplits
from training.metrics import best_threshold
from training.review.effect import METRICS, Gain, gain
from training.review.evidence import Pairs
from training.review.findings import VECTORS_FILE
from training.review.label_errors import judge
from training.review.out_of_fold import probabilities
from training.review.projection import project
from training.review.search import MAX_TOKENS
from training.review.vectors import cached_vectors, index_texts

Ints = npt.NDArray[np.int64]


class Found(BaseModel):
    """Of one seed. `recall`: share of the planted errors among as many rows ranked most suspicious as were planted."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    seed: int
    rows: int
    planted: int
    recall: float
    counted_errors: int
    seconds: float


class Planted(BaseModel):
    """`corrected`: test metrics trained with the errors and with those that were found put right. `accepted`: with all
    of the looked-at rows' suggestions taken unseen. `clean`: with no error planted."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    share: float  # of train's labels that were changed, and what guessing would find of them
    seeds: tuple[Found, ...]
    corrected: dict[str, Gain]
    accepted: dict[str, Gain]
    clean: dict[str, Gain]

    @property
    def least_recall(self) -> float:
        """Of the seeds."""
        return min(found.recall for found in self.seeds)


@dataclass(frozen=True, slots=True)
class _Scored:
    """Test scores (S, N) of S trainings, with thresholds."""

    scores: list[npt.NDArray[np.float64]]
    thresholds: list[float]

    def sides(self) -> tuple[npt.NDArray[np.float64], list[float]]:
        return np.stack(self.scores), self.thresholds


def measure_planted(
    splits: PairSplits,
    labels: Sequence[str],
    encoder: Path,
    folder: Path,
    share: float,
    seeds: Sequence[int],
    log: Callable[[str], None] = lambda line: None,
) -> Planted:
    """Plant, search, correct and train for each of `seeds`. Raises what `search.review` raises."""
    rows = [row for split in SPLITS for row in splits.rows(split)]
    texts = index_texts(rows)
    vectors = cached_vectors(texts.texts, encoder, MAX_TOKENS, folder / f"{VECTORS_FILE}.npz")
    given = np.array([labels.index(row.label) for row in rows], np.int64)
    every = Pairs(vectors, texts.first, texts.second, given, labels.index(splits.positive), len(labels))
    split_of = np.array([split for split in SPLITS for _ in splits.rows(split)])
    train, valid, test = (every.only(split_of == split) for split in SPLITS)
    found = []
    trained = {name: _Scored([], []) for name in ("planted", "corrected", "accepted", "clean")}
    for seed in seeds:
        begun = time.monotonic()
        wrong, planted = plant(train.labels, len(labels), share, seed)
        likely = probabilities(train.labelled(wrong), train.only(np.zeros(len(wrong), bool)), seed, log).own
        judged = judge(wrong, likely)
        looked_at = judged.ranks <= planted.sum()
        one = Found(
            seed=seed,
            rows=len(wrong),
            planted=int(planted.sum()),
            recall=round(float(looked_at[planted].mean()), 4),
            counted_errors=int(judged.wrong.sum()),
            seconds=round(time.monotonic() - begun, 1),
        )
        found.append(one)
        log(f"seed {seed}: {one.recall:.1%} of {one.planted} planted errors found in {one.seconds:.0f} s")
        variants = {
            "planted": wrong,
            "corrected": np.where(looked_at, train.labels, wrong),
            "accepted": np.where(looked_at, likely.argmax(1), wrong),
            "clean": train.labels,
        }
        for name, given_labels in variants.items():
            _train(train.labelled(given_labels), valid, test, seed, trained[name])
            log(f"seed {seed}: trained on {name}")
    truth = (test.labels == test.match).astype(int).tolist()

    def gains(name: str) -> dict[str, Gain]:
        return {metric: gain(metric, trained["planted"].sides(), trained[name].sides(), truth) for metric in METRICS}

    return Planted(
        share=share,
        seeds=tuple(found),
        corrected=gains("corrected"),
        accepted=gains("accepted"),
        clean=gains("clean"),
    )


def plant(labels: Ints, classes: int, share: float, seed: int) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """(N,) labels with `share` of them changed to another class at random, and which were."""
    random = np.random.default_rng([seed, 5])
    planted = np.zeros(len(labels), bool)
    planted[random.choice(len(labels), round(share * len(labels)), replace=False)] = True
    shift = random.integers(1, classes, len(labels))
    return np.where(planted, (labels + shift) % classes, labels), planted


def _train(train: Pairs, valid: Pairs, test: Pairs, seed: int, into: _Scored) -> None:
    mapped = project(train.vectors, train.first, train.second, train.labels == train.match, seed)
    truth = (valid.labels == valid.match).astype(int)
    into.thresholds.append(best_threshold(mapped.scores(valid.first, valid.second), truth))
    into.scores.append(mapped.scores(test.first, test.second))
