"""What a search is after: "f1 >= 0.98 teacher, smallest p50". Bounds on figures, and what should be smallest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from runtime.errors import InvalidInput

COSTS = {"p50": "p50_ms", "size": "size_bytes", "memory": "memory_bytes"}
QUALITIES = ("f1", "accuracy", "precision", "recall", "roc_auc", "average_precision", "perplexity", "bits_per_byte")
UNITS = {"": 1.0, "ms": 1.0, "mb": 1e6, "kb": 1e3, "gb": 1e9}
BOUND = re.compile(r"(\w+)\s*(>=|<=)\s*([\d.]+)\s*(ms|[kmg]b)?\s*(?:(?:of\s+)?(?:the\s+)?(teacher))?")
SMALLEST = re.compile(r"smallest\s+(\w+)(?:\s+on\s+this\s+machine)?")
EXAMPLE = 'write it like "f1 >= 0.98 teacher, smallest p50"'


@dataclass(frozen=True, slots=True)
class Bound:
    """`figure` at least (or at most) `value`; `relative`: times the teacher's."""

    figure: str
    at_least: bool
    value: float
    relative: bool

    def holds(self, figures: Mapping[str, float], teacher: Mapping[str, float]) -> bool:
        """Whether `figures` keep it. A figure that was not measured breaks no bound."""
        if self.figure not in figures:
            return True
        limit = self.value * (teacher[self.figure] if self.relative else 1)
        return figures[self.figure] >= limit if self.at_least else figures[self.figure] <= limit


@dataclass(frozen=True, slots=True)
class Goal:
    """Bounds, and the figure that should be smallest among those that keep them."""

    text: str
    bounds: tuple[Bound, ...]
    smallest: str

    def met(self, figures: Mapping[str, float], teacher: Mapping[str, float]) -> bool:
        """Whether all bounds hold."""
        return all(bound.holds(figures, teacher) for bound in self.bounds)


def parse_goal(text: str) -> Goal:
    """Read a goal. Raises InvalidInput naming the part that is not understood."""
    bounds, smallest = [], None
    for part in (each.strip().lower() for each in text.split(",")):
        if found := SMALLEST.fullmatch(part):
            if smallest:
                raise InvalidInput(f"--goal {text!r} wants two figures smallest; choose one.")
            smallest = _cost(found[1], text)
        elif found := BOUND.fullmatch(part):
            name, sign, number, unit, relative = found.groups()
            if name not in COSTS and name not in QUALITIES:
                raise InvalidInput(f"--goal: {name!r} is not measured; there are {', '.join((*QUALITIES, *COSTS))}.")
            if unit and relative:
                raise InvalidInput(f"--goal: {part!r} is {unit} or a share of the teacher's, not both.")
            value = _number(number, part) * UNITS[unit or ""]
            bounds.append(Bound(COSTS.get(name, name), sign == ">=", value, bool(relative)))
        else:
            raise InvalidInput(f"--goal: {part!r} is not understood; {EXAMPLE}.")
    if not smallest:
        raise InvalidInput(f"--goal {text!r} does not say what should be smallest; {EXAMPLE}.")
    return Goal(text, tuple(bounds), smallest)


def _cost(name: str, text: str) -> str:
    if name not in COSTS:
        raise InvalidInput(f"--goal {text!r}: smallest {name!r} is none of {', '.join(COSTS)}.")
    return COSTS[name]


def _number(digits: str, part: str) -> float:
    try:
        return float(digits)
    except ValueError:
        raise InvalidInput(f"--goal: {digits!r} in {part!r} is no number.") from None
