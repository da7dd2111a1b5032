"""A bar: what a figure must be, how it is read from the result files, and whether it is met."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.figures import Result

Results = dict[str, Result]
Measured = tuple[str, bool | None]  # in words; None: a reference, or not decided
FLAT = 0.03


@dataclass(frozen=True, slots=True)
class Bar:
    """`sections`: the results without which it is not measured. `measure` may raise KeyError: that row is missing."""

    figure: str
    bar: str
    sections: tuple[str, ...]
    measure: Callable[[Results], Measured]


@dataclass(frozen=True, slots=True)
class Line:
    """One bar with what was measured. `met` None: a reference, or not measured."""

    figure: str
    bar: str
    measured: str
    met: bool | None


def lines(results: Results, bars: Sequence[Bar]) -> list[Line]:
    """Every bar, measured or not."""
    found = []
    for bar in bars:
        missing = [section for section in bar.sections if section not in results]
        if missing:
            measured: Measured = (f"not measured: no {', '.join(missing)}", None)
        else:
            try:
                measured = bar.measure(results)
            except KeyError as error:
                measured = (f"not measured: {_why(results, bar, str(error.args[0]))}", None)
        found.append(Line(bar.figure, bar.bar, *measured))
    return found


def ratio(rounds: Iterable[float], of: Iterable[float]) -> float:
    """Median of the ratios round by round: both sides of each were measured within a minute."""
    return statistics.median(a / b for a, b in zip(rounds, of, strict=False))


def _why(results: Results, bar: Bar, name: str) -> str:
    return next(
        (f"{name}: {r['failed'][name]}" for r in map(results.get, bar.sections) if r and name in r.get("failed", {})),
        name,
    )


def memory(result: Result) -> Measured:
    """Resident memory at the end of a flood against its second quarter; the first is the warm-up."""
    second, last = (result[f"rss_{which}_quarter_mb"] for which in ("second", "last"))
    return f"{second:.0f} -> {last:.0f} MiB, second to last quarter", last <= second * (1 + FLAT)


def times(value: float, bar: float) -> Measured:
    """A ratio that must be at least `bar`."""
    return f"{value:.2f}x", value >= bar
