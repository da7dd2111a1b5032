"""The candidates of a search as points, and which of them no other beats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from training.compression.goal import Goal

LOWER = ("p50_ms", "size_bytes", "memory_bytes")


class Spread(BaseModel):
    """The median of a candidate's latencies, and its quartiles, in milliseconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    p50: float
    low: float
    high: float


class Point(BaseModel):
    """One candidate. `quality` is of valid; `artifact` can be loaded, evaluated and published."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    steps: tuple[dict[str, Any], ...] = ()
    status: Literal["made", "pruned", "failed"] = "made"
    why: str = ""  # it was pruned, or failed
    artifact: str | None = None
    digest: str | None = None
    precision: str | None = None
    size_bytes: int | None = None
    memory_bytes: int | None = None
    latency_ms: Spread | None = None
    quality: dict[str, float] = {}
    on_front: bool = False
    meets_goal: bool = False
    chosen: bool = False

    def figures(self) -> dict[str, float]:
        """Everything that a goal may name."""
        found = {"size_bytes": self.size_bytes, "memory_bytes": self.memory_bytes}
        found["p50_ms"] = self.latency_ms.p50 if self.latency_ms else None  # type: ignore[assignment]
        return {name: float(value) for name, value in found.items() if value is not None} | self.quality


def main_quality(points: Sequence[Point]) -> tuple[str, bool]:
    """The figure that the front is about, and whether more of it is better: F1, or perplexity of generation."""
    return ("f1", True) if any("f1" in point.quality for point in points) else ("perplexity", False)


def judged(points: Sequence[Point], teacher: Point, goal: Goal | None) -> list[Point]:
    """The points with what only all together tell: the front, who meets the goal, and who does with the least."""
    name, more = main_quality([teacher, *points])
    made = [point for point in points if point.status == "made"]

    def coordinates(point: Point) -> tuple[float, ...]:
        figures = point.figures()
        return (-figures[name] if more else figures[name], *(figures[cost] for cost in LOWER))

    places = {point.name: coordinates(point) for point in made}
    front = {
        one
        for one, here in places.items()
        if not any(_beats(there, here) for other, there in places.items() if other != one)
    }
    meeting = [point for point in made if goal and goal.met(point.figures(), teacher.figures())]
    best = min(meeting, key=lambda point: point.figures()[goal.smallest]).name if goal and meeting else None
    names = {point.name for point in meeting}
    return [
        point.model_copy(
            update={
                "on_front": point.name in front,
                "meets_goal": point.name in names,
                "chosen": point.name == best,
            }
        )
        for point in points
    ]


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """At least as good in everything, and better in something."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other
