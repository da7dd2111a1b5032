"""A search from recipe to front.json and front.html, over one run or over those of several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from training.checkpoint import git_commit, versions
from training.compression.front import Point
from training.compression.front_page import front_page
from training.compression.front_record import FRONT_FILE, Front, combined, on_test, seed_points
from training.compression.goal import Goal
from training.compression.measure import ROUND_RUNS, ROUNDS
from training.compression.search import Outcome, search_run
from training.data.splits import PairSplits, load_splits
from training.hardware import this_machine
from training.progress import quiet_libraries
from training.recipe import Recipe

TIMED = (
    f"p50: one input alone (a pair, of a bi-encoder a text, of 32 tokens; of generation, one token), on all cores; "
    f"{ROUNDS} rounds of {ROUND_RUNS} calls, all candidates and the teacher in turn within a round."
)


def search(recipe: Recipe, goal: Goal | None, seeds: Sequence[int], *, whole: bool, test: bool, command: str) -> int:
    """Search the run, or the runs NAME-SEED together; 1 when no candidate meets the goal. Raises as `search_run`."""
    quiet_libraries()

    def log(line: str) -> None:
        print(line, flush=True)

    named = [recipe.model_copy(update={"name": f"{recipe.name}-{seed}", "seed": seed}) for seed in seeds]
    outcomes = [search_run(each, None if whole else goal, log) for each in named or [recipe]]
    teacher, points = combined(outcomes, goal)
    front = _document(recipe, goal, command, outcomes, teacher, points)
    place = recipe.run / FRONT_FILE
    front.write(place)  # before test is touched: what was chosen by valid stands
    if test:
        names = [point.name for point in points if point.on_front]
        front = front.model_copy(update={"test": on_test(outcomes, names)})
        front.write(place)
    page = front_page(front, recipe.name).write(place.with_suffix(".html"))
    for point in sorted(points, key=lambda point: point.figures().get("p50_ms", float("inf"))):
        log(_line(point, teacher))
    log(f"made: {place} and {page}")
    return 1 if goal and not any(point.chosen for point in points) else 0


def _document(
    recipe: Recipe, goal: Goal | None, command: str, outcomes: Sequence[Outcome], teacher: Point, points: list[Point]
) -> Front:
    splits = load_splits(recipe)
    rows = {
        split: len(splits.rows(split) if isinstance(splits, PairSplits) else splits.texts(split))
        for split in ("valid", "test")
    }
    return Front(
        command=command,
        git_commit=git_commit(),
        versions=versions(),
        machine=this_machine(),
        created=datetime.now(UTC).replace(microsecond=0),
        goal=goal.text if goal else None,
        timed=TIMED,
        rows=rows,
        teacher=teacher,
        points=tuple(points),
        seeds=tuple(seed_points(outcome, goal) for outcome in outcomes),
    )


def _line(point: Point, teacher: Point) -> str:
    """One candidate, one line."""
    if point.status != "made":
        return f"  {point.name}: {point.status}, {point.why}"
    figures, base = point.figures(), teacher.figures()
    mark = "★" if point.chosen else "●" if point.on_front else " "
    quality = "f1" if "f1" in figures else "perplexity"
    return (
        f"{mark} {point.name}: {quality} {figures[quality]:.4f} ({figures[quality] / base[quality]:.3f} of teacher), "
        f"p50 {figures['p50_ms']:.2f} ms ({base['p50_ms'] / figures['p50_ms']:.1f}x), "
        f"{figures['size_bytes'] / 1e6:.1f} MB ({figures['size_bytes'] / base['size_bytes']:.3f}), "
        f"{figures['memory_bytes'] / 1e6:.0f} MB of memory"
    )
