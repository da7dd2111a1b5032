"""`front.html`: the search as a table, one line a candidate, and the front as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from training.compression.front import Point, main_quality
from training.compression.front_record import Front, TestFigures
from training.compression.search import TEACHER
from training.pages.page import Cell, Page, Section, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = ("front", "candidate", "p50 ms", "quartiles", "× faster", "MB", "of size", "memory MB")


def front_page(front: Front, name: str) -> Page:
    """The page of one search."""
    seeds = ", ".join(str(each.seed) for each in front.seeds)
    when = f"{front.created:%Y-%m-%d %H:%M} UTC, {front.machine.cpu}, {front.machine.cores} cores"
    page = Page(f"Compression of {name}", f"{when}; seed {seeds}; commit {front.git_commit or 'unknown'}")
    quality, _ = main_quality([front.teacher, *front.points])
    section = page.section("The front")
    if front.goal:
        section.text(f"Goal: {front.goal}. {_verdict(front)}")
    section.figure(_plot(front, quality), "Each mark is a loadable artifact. Blue: no other is better in everything.")
    _candidate_table(section, front, quality)
    if front.test:
        _test_table(page.section("On test"), front)
    lost = [point for point in front.points if point.status != "made"]
    if lost:
        page.section("Left out").table(["candidate", "", "why"], [[p.name, p.status, p.why] for p in lost])
    if len(front.seeds) > 1:
        _seed_table(page.section("Each seed"), front, quality)
    how = page.section("How it was measured")
    how.text(front.timed)
    how.text(f"Command: {front.command}")
    rows = [[point.name, " → ".join(_step(step) for step in point.steps)] for point in front.points]
    how.table(["candidate", "steps"], rows, caption="What each candidate is", folded=True)
    how.table(["library", "version"], list(map(list, front.versions.items())), caption="Versions", folded=True)
    return page


def _verdict(front: Front) -> str:
    chosen = next((point for point in front.points if point.chosen), None)
    if chosen is None:
        return "No candidate meets it."
    where = f" It lies in {chosen.artifact}." if chosen.artifact else ""
    return f"{chosen.name} meets it with the least.{where}"


def _candidate_table(section: Section, front: Front, quality: str) -> None:
    columns = [*COLUMNS, f"{quality} (valid)", "of teacher"]
    rows = [_row(point, front.teacher, quality) for point in _by_latency(front)]
    section.table(columns, rows, caption="● on the front, ★ meets the goal with the least; smaller p50 first")


def _row(point: Point, teacher: Point, quality: str) -> list[Cell]:
    figures, base = point.figures(), teacher.figures()
    assert point.latency_ms is not None
    mark = "★" if point.chosen else "●" if point.on_front else ""
    return [
        mark,
        point.name,
        round(point.latency_ms.p50, 2),
        f"{point.latency_ms.low:.2f} … {point.latency_ms.high:.2f}",
        round(base["p50_ms"] / figures["p50_ms"], 2),
        round(figures["size_bytes"] / 1e6, 2),
        round(figures["size_bytes"] / base["size_bytes"], 3),
        round(figures["memory_bytes"] / 1e6),
        round(figures[quality], 4),
        round(figures[quality] / base[quality], 4),
    ]


def _by_latency(front: Front) -> list[Point]:
    made = [point for point in (front.teacher, *front.points) if point.status == "made" and point.latency_ms]
    return sorted(made, key=lambda point: point.figures()["p50_ms"])


def _test_table(section: Section, front: Front) -> None:
    section.text(f"Of {front.rows.get('test', 0)} rows, touched once, for the front only; 95 % intervals by bootstrap.")
    keys = list(next(iter(front.test.values())).figures)
    rows = [[name, *_test_cells(figures, keys)] for name, figures in front.test.items()]
    section.table(["candidate", *keys, "F1 of teacher's"], rows)


def _test_cells(given: TestFigures, keys: Sequence[str]) -> list[Cell]:
    found = [*(given.figures[key] for key in keys), given.f1_of_teacher]
    return [f"{each.value:.4g} [{each.low:.4g}, {each.high:.4g}]" if each else None for each in found]


def _seed_table(section: Section, front: Front, quality: str) -> None:
    rows = [
        [seed.seed, *_row(point, seed.teacher, quality)[1:]]
        for seed in front.seeds
        for point in (seed.teacher, *seed.points)
        if point.status == "made"
    ]
    section.table(["seed", *COLUMNS[1:], f"{quality} (valid)", "of teacher"], rows)


def _step(step: dict[str, object]) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in step.items() if key not in ("step", "train"))
    return f"{step['step']} ({settings})" if settings else str(step["step"])


def _plot(front: Front, quality: str) -> Figure:
    drawn, (by_latency, by_size) = figure(9.6, 3.8, columns=2)
    _draw(by_latency, front, quality, "p50_ms", 1, "p50, ms")
    _draw(by_size, front, quality, "size_bytes", 1e6, "size, MB")
    by_latency.set_ylabel(f"{quality} on valid", fontsize=9)
    return drawn


def _draw(axis: Axes, front: Front, quality: str, cost: str, unit: float, label: str) -> None:
    from matplotlib.ticker import LogLocator

    made = _by_latency(front)
    for point in made:
        x, y = point.figures()[cost] / unit, point.figures()[quality]
        is_teacher = point.name == TEACHER
        colour = "#666" if is_teacher else "#0b62a8" if point.on_front else "#b9c4cd"
        mark = "s" if is_teacher else "*" if point.chosen else "o"
        axis.plot(x, y, mark, color=colour, markersize=11 if mark == "*" else 6)
        if is_teacher or point.on_front:
            axis.annotate(point.name, (x, y), xytext=(4, 5), textcoords="offset points", fontsize=7)
    for x, y in _staircase([(p.figures()[cost] / unit, p.figures()[quality]) for p in made if p.on_front], quality):
        axis.plot(x, y, color="#0b62a8", linewidth=0.8, alpha=0.5)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("")
    axis.set_xlabel(label, fontsize=9)


def _staircase(points: list[tuple[float, float]], quality: str) -> list[tuple[list[float], list[float]]]:
    """The best quality to be had at each cost: what lies behind is drawn without the line."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not best or (y < best[-1][1] if quality == "perplexity" else y > best[-1][1]):
            best.append((x, y))
    return [([x for x, _ in best], [y for _, y in best])] if len(best) > 1 else []
