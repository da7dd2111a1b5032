"""`front.json`: what a search found, over one run or over several seeds, and the front's quality on test."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from runtime.load import load_engine
from runtime.manifest import read_manifest
from training.bootstrap import Range, interval, paired_ratio
from training.compression.front import Point, Spread, judged
from training.compression.goal import Goal
from training.compression.measure import Engine
from training.compression.search import TEACHER, Outcome
from training.data.splits import PairSplits, load_splits
from training.evaluate import as_pairs, evaluate_split, record, score_pairs
from training.hardware import Hardware

FRONT_FILE = "front.json"
ON_TEST = ("f1", "roc_auc")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TestFigures(_Record):
    """A point on test: its figures, and its F1 over that of the teacher, on the same resamples of rows. Of several
    seeds, their mean in each resample. Generation: perplexities only, without intervals."""

    figures: dict[str, Range]
    f1_of_teacher: Range | None = None
    per_seed: dict[int, dict[str, float]] = {}


class SeedPoints(_Record):
    """The search of one run."""

    seed: int
    run: str
    teacher: Point
    points: tuple[Point, ...]


class Front(_Record):
    """The document. `teacher` and `points` are medians over the seeds; a candidate that one of them lacks is pruned."""

    schema_version: Literal[1] = 1
    command: str
    git_commit: str | None
    versions: dict[str, str]
    machine: Hardware
    created: datetime
    goal: str | None
    timed: str
    rows: dict[str, int]
    teacher: Point
    points: tuple[Point, ...]
    seeds: tuple[SeedPoints, ...]
    test: dict[str, TestFigures] = {}

    def write(self, path: Path) -> Path:
        """Write the document, atomically; returns `path`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.partial")
        temporary.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return temporary.replace(path)


def combined(outcomes: Sequence[Outcome], goal: Goal | None) -> tuple[Point, list[Point]]:
    """The teacher and every candidate, each the median of its figures over the runs; judged together."""
    teacher = _median([outcome.teacher for outcome in outcomes])
    places = range(len(outcomes[0].points))
    by_name = [{point.name: point for point in outcome.points} for outcome in outcomes]
    points = [_median([each[outcomes[0].points[place].name] for each in by_name]) for place in places]
    return teacher, judged(points, teacher, goal)


def seed_points(outcome: Outcome, goal: Goal | None) -> SeedPoints:
    """One run's search as it stands in the document."""
    points = tuple(judged(outcome.points, outcome.teacher, goal))
    return SeedPoints(seed=outcome.recipe.seed, run=outcome.recipe.name, teacher=outcome.teacher, points=points)


def on_test(outcomes: Sequence[Outcome], names: Sequence[str]) -> dict[str, TestFigures]:
    """Quality on test of the teacher and of the named candidates, of every run; written into their manifests too."""
    splits = load_splits(outcomes[0].recipe)
    found: dict[str, TestFigures] = {}
    if not isinstance(splits, PairSplits):
        for name in (TEACHER, *names):
            seeds = {run.recipe.seed: _evaluated(run.artifact(_named(run, name)), run)[0] for run in outcomes}
            values = [figures["perplexity"] for figures in seeds.values()]
            middle = statistics.median(values)
            figures = {"perplexity": Range(value=middle, low=min(values), high=max(values))}
            found[name] = TestFigures(figures=figures, per_seed=seeds)
        return found
    _, truth = as_pairs(splits.test, splits.positive)
    teacher = _Scores(outcomes, TEACHER)
    for name in (TEACHER, *names):
        its = teacher if name == TEACHER else _Scores(outcomes, name)
        figures = {key: Range.of(interval(key, its.scores, truth, its.thresholds)) for key in ON_TEST}
        both = (its.scores, teacher.scores, truth, its.thresholds, teacher.thresholds)
        ratio = None if name == TEACHER else Range.of(paired_ratio("f1", *both))
        found[name] = TestFigures(figures=figures, f1_of_teacher=ratio, per_seed=its.metrics)
    return found


class _Scores:
    """Scores on test of one candidate in every run: (S, N), and their thresholds (S,)."""

    def __init__(self, outcomes: Sequence[Outcome], name: str) -> None:
        self.scores: list[list[float]] = []
        self.thresholds: list[float] = []
        self.metrics: dict[int, dict[str, float]] = {}
        for run in outcomes:
            directory = run.artifact(_named(run, name))
            metrics, scores = _evaluated(directory, run)
            self.metrics[run.recipe.seed] = metrics
            self.scores.append(scores)
            self.thresholds.append(read_manifest(directory).decision_threshold)


def _evaluated(directory: Path, run: Outcome) -> tuple[dict[str, float], list[float]]:
    splits = load_splits(run.recipe)
    engine = load_engine(directory)
    assert isinstance(engine, Engine)
    try:
        evaluation = evaluate_split(engine, splits, "test")
        record(directory, engine.manifest, evaluation)
        if not isinstance(splits, PairSplits):
            return dict(evaluation.metrics), []
        return dict(evaluation.metrics), score_pairs(engine, as_pairs(splits.test, splits.positive)[0])  # type: ignore[arg-type]
    finally:
        engine.close()


def _named(run: Outcome, name: str) -> Point:
    return next(point for point in (run.teacher, *run.points) if point.name == name)


def _median(points: Sequence[Point]) -> Point:
    lost = next((point for point in points if point.status != "made"), None)
    if lost or len(points) == 1:
        return lost or points[0]
    latencies = [point.latency_ms for point in points if point.latency_ms]
    changed: dict[str, Any] = {
        "artifact": None,
        "digest": None,
        "size_bytes": int(statistics.median(point.size_bytes or 0 for point in points)),
        "memory_bytes": int(statistics.median(point.memory_bytes or 0 for point in points)),
        "latency_ms": Spread(
            p50=statistics.median(each.p50 for each in latencies),
            low=min(each.low for each in latencies),
            high=max(each.high for each in latencies),
        ),
        "quality": {key: statistics.median(point.quality[key] for point in points) for key in points[0].quality},
    }
    return points[0].model_copy(update=changed)
