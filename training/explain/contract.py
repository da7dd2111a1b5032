"""The seams of an explanation: what a topic is given, and what it gives back.

A topic finds and shows. `find` looks at the subject and returns findings: numbers and texts, which become the JSON.
`show` puts findings on the page and looks at nothing else, so the page says what the JSON says, in any language.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from runtime.contract import Pair
from training.data.pairs import LabelledPair
from training.data.splits import Splits
from training.explain.likelihood import TextLosses
from training.explain.words import Words
from training.pages.page import Section
from training.recipe import Recipe

F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
POINTS = 200  # of a curve
Score = Callable[[Sequence[Pair]], F64]  # pairs -> scores (N,)


class Findings(BaseModel):
    """What a topic has found, as the JSON holds it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Curve = tuple[tuple[float, float], ...]


def thinned(x: F64, y: F64) -> Curve:
    """At most POINTS points of a curve, from end to end."""
    places = np.unique(np.linspace(0, len(x) - 1, min(POINTS, len(x))).round().astype(int))
    return tuple((round(float(x[place]), 6), round(float(y[place]), 6)) for place in places)


@dataclass(frozen=True, slots=True)
class Costs:
    """What a false match and a missed match cost, in any unit."""

    false_match: float = 1.0
    missed: float = 1.0


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """Labelled pairs with what an artifact says of them. N rows, C labels.

    `truth`: the row has the positive label. `classes`: probabilities (N, C), where a model has more than two labels.
    """

    rows: Sequence[LabelledPair]
    truth: Bools
    scores: F64
    threshold: float
    tokens: npt.NDArray[np.int64]
    dropped_tokens: npt.NDArray[np.int64]
    classes: F64 | None = None

    @property
    def guessed(self) -> Bools:
        """Which rows are taken for a match."""
        return self.scores >= self.threshold

    @property
    def wrong(self) -> Bools:
        """Which rows are decided wrongly."""
        return self.guessed != self.truth


class Subject(Protocol):
    """What is explained: an artifact, its run (None: it lies in none) and its data; computed when it is first asked
    for, and once."""

    run: Path | None
    artifact: Path
    artifacts: Sequence[Path]  # `artifact` and those of its run, a parent before what was made of it
    recipe: Recipe
    splits: Splits
    kind: str
    split: str
    costs: Costs
    seconds: float  # to measure an artifact's speed for
    seed: int

    def scored(self, artifact: Path, split: str) -> ScoredRows:
        """Rows of a split as an artifact scores them, at most so many as the command allows."""
        ...

    def losses(self, artifact: Path, split: str) -> TextLosses:
        """What each token of a split costs a language model."""
        ...

    def encode(self, text: str) -> Sequence[int]:
        """Token ids of a text, as the explained language model reads it."""
        ...

    def score(self, pairs: Sequence[Pair]) -> F64:
        """Scores of pairs by the explained artifact."""
        ...

    def log(self, line: str) -> None:
        """Tell how far the work is."""
        ...


@dataclass(frozen=True, slots=True)
class Topic:
    """One part of an explanation. `title`: a phrase of `words`; `kinds`: of models that it is for.

    `find` returns None where the subject has nothing for it (a run without artifacts, say).
    """

    title: str
    kinds: frozenset[str]
    findings: type[Findings]
    find: Callable[[Subject], Findings | None]
    show: Callable[[Findings, Section, Words], None]
