"""Inline SVG plots for the report: no library, no script, colours from the page's CSS."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 10, 24
MOST_TICKS = 6

Point = tuple[float, float | None]  # None breaks the line: nothing was measured there


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a plot; `colour` is the number of a CSS class s1 to s4."""

    name: str
    colour: int
    points: Sequence[Point]


def ticks(largest: float, most: int = MOST_TICKS) -> list[float]:
    """Return round numbers from 0 up to at least `largest`."""
    if largest <= 0:
        return [0.0, 1.0]
    rough = largest / (most - 1)
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= rough * 0.999)
    return [step * number for number in range(math.ceil(largest / step - 1e-9) + 1)]


def over_time(series: Sequence[Series], unit: str, end_s: float) -> str:
    """Plot series over the seconds of the run."""
    x_ticks = [tick for tick in ticks(end_s) if tick <= end_s * 1.001]
    return _plot(series, unit, [(tick / end_s, f"{tick:g} s") for tick in x_ticks], lambda x: x / end_s)


def by_percentile(series: Sequence[Series], unit: str) -> str:
    """Plot series over percentiles, the tail stretched: every nine takes the same room."""
    shown = {0.0: "min", 50.0: "p50", 90.0: "p90", 99.0: "p99", 99.9: "p99.9", 100.0: "max"}

    def place(percent: float) -> float:
        return min(1.0, -math.log10(max(1 - percent / 100, 10**-3.3)) / 3.3)

    return _plot(series, unit, [(place(percent), name) for percent, name in shown.items()], place)


def _plot(
    series: Sequence[Series], unit: str, x_ticks: Sequence[tuple[float, str]], place: Callable[[float], float]
) -> str:
    largest = max((y for line in series for _, y in line.points if y is not None), default=0.0)
    y_ticks = ticks(largest)
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x_of(share: float) -> float:
        return LEFT + width * share

    def y_of(value: float) -> float:
        return TOP + height * (1 - value / y_ticks[-1])

    names = ", ".join(line.name for line in series)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(names)} in {escape(unit)}">']
    for tick in y_ticks:
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_of(tick):.1f}" y2="{y_of(tick):.1f}"/>'
        )
        parts.append(f'<text class="tick end" x="{LEFT - 6}" y="{y_of(tick) + 4:.1f}">{tick:g}</text>')
    for share, label in x_ticks:
        parts.append(
            f'<line class="grid" x1="{x_of(share):.1f}" x2="{x_of(share):.1f}" y1="{TOP}" y2="{TOP + height}"/>'
        )
        parts.append(f'<text class="tick mid" x="{x_of(share):.1f}" y="{HEIGHT - BOTTOM + 16}">{escape(label)}</text>')
    for line in series:
        placed = [(x_of(place(x)), None if y is None else y_of(y)) for x, y in line.points]
        parts += [_stretch(stretch, line.colour) for stretch in _unbroken(placed)]
    return "".join([*parts, "</svg>"])


def _unbroken(points: Sequence[Point]) -> list[list[tuple[float, float]]]:
    stretches: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None:
            stretches.append([])
        else:
            stretches[-1].append((x, y))
    return [stretch for stretch in stretches if stretch]


def _stretch(points: Sequence[tuple[float, float]], colour: int) -> str:
    if len(points) == 1:
        return f'<circle class="dot s{colour}" cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="2.5"/>'
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="line s{colour}" points="{path}"/>'
