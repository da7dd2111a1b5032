"""Tries step lists on a run's checkpoint: makes each candidate, leaves out those that cannot win, times them in turn.

What is there already is used again, so a search that was stopped goes on. Quality is that of valid throughout.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import InvalidInput, SluiceError
from runtime.load import load_engine
from runtime.manifest import read_manifest
from training.checkpoint import read_config
from training.compression.artifact import make_artifact
from training.compression.candidates import candidates
from training.compression.front import Point, Spread
from training.compression.goal import QUALITIES, Goal
from training.compression.measure import Engine, interleaved_ms, memory_bytes, quality_on_valid
from training.compression.pipeline import Pipeline, recipe_context
from training.compression.step import COMPRESSED, Context, Step
from training.recipe import Recipe

TEACHER = "teacher"
# What noise may hide of a latency, and what later steps may give back of a quality.
LATENCY_MARGIN, QUALITY_MARGIN = 0.9, 0.02


@dataclass(frozen=True, slots=True)
class Outcome:
    """A search of one run: the checkpoint that all descend from, and every candidate."""

    recipe: Recipe
    teacher: Point
    points: tuple[Point, ...]

    def artifact(self, point: Point) -> Path:
        """Where a point's artifact lies."""
        assert point.artifact is not None
        return self.recipe.runs / point.artifact


def search_run(recipe: Recipe, goal: Goal | None, log: Callable[[str], None]) -> Outcome:
    """Make and measure the candidates of a trained run; without a goal none is left out.

    Raises InvalidInput without a checkpoint, DataError.
    """
    context = recipe_context(recipe, log)
    search = _Search(recipe, context, Pipeline(recipe.run / COMPRESSED, context), goal)
    layers = getattr(read_config(context.checkpoint), "num_hidden_layers", 1)
    teacher = search.teacher()
    log(f"{recipe.name}, teacher: {_told(teacher)}")
    plan = search.plan(candidates(read_manifest(context.checkpoint).kind, layers, recipe.compress))
    points: list[Point] = []
    for number, (name, steps, shape) in enumerate(plan, 1):
        log(f"candidate {number}/{len(plan)}, {name}: {' → '.join(step.step for step in steps)}")
        points.append(search.tried(name, steps, shape, teacher, points))
        log(f"candidate {number}/{len(plan)}, {name}: {_told(points[-1])}")
    timed = search.timed([teacher, *points])
    return Outcome(recipe, timed[0], tuple(timed[1:]))


@dataclass(frozen=True, slots=True)
class _Search:
    recipe: Recipe
    context: Context
    pipeline: Pipeline
    goal: Goal | None

    def teacher(self) -> Point:
        """The checkpoint, measured once."""
        checkpoint = self.context.checkpoint
        manifest = read_manifest(checkpoint)
        kept = self.pipeline.folder / f"checkpoint-{manifest.digest[:10]}.json"
        if not kept.is_file():
            assert self.context.splits is not None
            engine = _load(checkpoint)
            quality = quality_on_valid(engine, self.context.splits).metrics
            engine.close()
            figures = {"quality": quality, "memory_bytes": memory_bytes(checkpoint, self.context.probe)}
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(figures), encoding="utf-8")
        return self._point(TEACHER, (), checkpoint, **json.loads(kept.read_text(encoding="utf-8")))

    def plan(self, lists: dict[str, tuple[Step, ...]]) -> list[tuple[str, tuple[Step, ...], dict[str, float]]]:
        """Candidates in the order in which they are tried, with what their shape costs where that is worth knowing:
        first those that need no training, then those that promise to be smallest, which rule out the larger ones."""
        plan = []
        for name, steps in lists.items():
            shape: dict[str, float] = {}
            if self.goal and any(_trains(step) for step in steps) and self.pipeline.found(steps) is None:
                shape = self._shape(name, steps)
            plan.append((name, steps, shape))
        smallest = self.goal.smallest if self.goal else ""
        return sorted(plan, key=lambda each: each[2].get(smallest, 0.0))

    def tried(
        self, name: str, steps: Sequence[Step], shape: dict[str, float], teacher: Point, before: Sequence[Point]
    ) -> Point:
        """The candidate made and measured, or why not."""
        dumped = tuple(step.model_dump(mode="json", exclude_defaults=True) | {"step": step.step} for step in steps)

        def dropped(status: str, why: str) -> Point:
            return Point.model_validate({"name": name, "steps": dumped, "status": status, "why": why})

        if why := self._cannot_win(shape, teacher, before):
            return dropped("pruned", why)
        trained = max((place for place, step in enumerate(steps, 1) if _trains(step)), default=0)
        try:
            if trained and (why := self._too_weak(self.pipeline.run(steps[:trained])[-1], teacher)):
                return dropped("pruned", why)
            artifact = self.pipeline.run(steps)[-1]
        except (SluiceError, ValueError) as error:
            return dropped("failed", str(error))
        step = read_manifest(artifact).steps[-1]
        point = self._point(name, dumped, artifact, quality=step.quality, memory_bytes=step.memory_bytes)
        p50 = step.latency_p50_ms or 0.0  # of when it was made; timed again beside the others
        return point.model_copy(update={"latency_ms": Spread(p50=p50, low=p50, high=p50)})

    def timed(self, points: Sequence[Point]) -> list[Point]:
        """The points with latencies that were taken in turn."""
        engines = {
            point.name: _load(self.recipe.runs / point.artifact) for point in points if point.artifact is not None
        }
        try:
            times = interleaved_ms(engines, self.context.probe)
        finally:
            for engine in engines.values():
                engine.close()
        return [
            point.model_copy(update={"latency_ms": _spread(times[point.name])}) if point.name in times else point
            for point in points
        ]

    def _shape(self, name: str, steps: Sequence[Step]) -> dict[str, float]:
        """Size and latency of what the steps lead to, without any training."""
        self.context.log(f"{name}: what its shape costs, untrained")
        source, manifest = self.context.checkpoint, None
        with tempfile.TemporaryDirectory(dir=self.pipeline.folder, prefix=".shape-") as work:
            context = replace(self.context, work=Path(work) / "work", log=lambda line: None)
            context.work.mkdir()
            try:
                for place, step in enumerate(filter(None, (step.untrained() for step in steps))):
                    target = Path(work) / str(place)
                    manifest = make_artifact(step, source, target, context, judged=False)
                    source = target
            except (SluiceError, ValueError):
                return {}  # `tried` will say it
        if manifest is None:
            return {}
        made = manifest.steps[-1]
        return {"size_bytes": float(made.size_bytes), "p50_ms": made.latency_p50_ms or 0.0}

    def _cannot_win(self, shape: dict[str, float], teacher: Point, before: Sequence[Point]) -> str:
        if not (self.goal and shape):
            return ""
        likely = shape | {"p50_ms": shape["p50_ms"] * LATENCY_MARGIN}
        costs = teacher.figures()
        if "p50_ms" not in costs:  # timed at the end
            costs["p50_ms"] = float("inf")
        for bound in self.goal.bounds:
            if not bound.holds(likely, costs) and bound.figure in likely:
                return f"its shape alone has {bound.figure} {shape[bound.figure]:.4g}, which the goal does not allow"
        smallest = self.goal.smallest
        for point in before:
            figures = point.figures()
            if (
                point.status == "made"
                and self.goal.met(figures, costs)
                and figures[smallest] <= likely.get(smallest, 0)
            ):
                return f"its shape alone has {smallest} {shape[smallest]:.4g}; {point.name} meets the goal with less"
        return ""

    def _too_weak(self, artifact: Path, teacher: Point) -> str:
        """A quality, after the last training, from which export and quantisation lead nowhere but down."""
        quality = read_manifest(artifact).steps[-1].quality
        for bound in self.goal.bounds if self.goal else ():
            margin = 1 + QUALITY_MARGIN if bound.at_least else 1 - QUALITY_MARGIN
            found = {name: value * margin for name, value in quality.items() if name in QUALITIES}
            if not bound.holds(found, teacher.figures()) and bound.figure in found:
                return f"after its training {bound.figure} is {quality[bound.figure]:.4g}, too far from the goal"
        return ""

    def _point(self, name: str, steps: tuple[dict[str, Any], ...], artifact: Path, **figures: Any) -> Point:
        manifest = read_manifest(artifact)
        return Point(
            name=name,
            steps=steps,
            artifact=artifact.relative_to(self.recipe.runs).as_posix(),
            digest=manifest.digest,
            precision=manifest.precision,
            size_bytes=manifest.size_bytes,
            **figures,
        )


def _trains(step: Step) -> bool:
    return step.untrained() is not step


def _spread(times: Sequence[float]) -> Spread:
    low, high = np.quantile(times, [0.25, 0.75])
    return Spread(p50=round(statistics.median(times), 3), low=round(float(low), 3), high=round(float(high), 3))


def _load(directory: Path) -> Engine:
    engine = load_engine(directory)
    if not isinstance(engine, Engine):
        raise InvalidInput(f"{directory} cannot be measured here.")
    return engine


def _told(point: Point) -> str:
    if point.status != "made":
        return f"{point.status}: {point.why}"
    size = f"{(point.size_bytes or 0) / 1e6:.1f} MB, {(point.memory_bytes or 0) / 1e6:.0f} MB of memory"
    p50 = f"p50 {point.latency_ms.p50:.2f} ms" if point.latency_ms else ""
    quality = ", ".join(f"{key} {value:.4f}" for key, value in point.quality.items() if key in ("f1", "perplexity"))
    return ", ".join(each for each in (size, p50, quality) if each)
