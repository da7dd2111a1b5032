"""The `tune` section of a recipe: which settings to search, how, and for how long."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from training.section import Section

SAMPLERS = ("grid", "random", "tpe", "gp")
PRUNERS = ("none", "hyperband", "median")
Scalar = str | int | float | bool | None


class IntRange(Section):
    """Whole numbers from `low` to `high`, both included."""

    type: Literal["int"]
    low: int
    high: int
    step: int = Field(default=1, gt=0)
    log: bool = False  # as many tries between 1 and 10 as between 10 and 100

    @model_validator(mode="after")
    def _holds(self) -> IntRange:
        _check_range(self.low, self.high, self.log, self.step != 1)
        return self

    @property
    def points(self) -> Sequence[Scalar] | None:
        """All values, for a grid."""
        return tuple(range(self.low, self.high + 1, self.step))

    @property
    def probes(self) -> Sequence[Scalar]:
        """Values that stand for all when a recipe is asked whether it takes them."""
        return (self.low, self.high)

    def value(self, encoded: Any) -> Any:
        """What a sampler's value is in the recipe."""
        return encoded


class FloatRange(Section):
    """Numbers from `low` to `high`; with `step` only those at multiples of it above `low`."""

    type: Literal["float"]
    low: float
    high: float
    step: float | None = Field(default=None, gt=0)
    log: bool = False

    @model_validator(mode="after")
    def _holds(self) -> FloatRange:
        _check_range(self.low, self.high, self.log, self.step is not None)
        return self

    @property
    def points(self) -> Sequence[Scalar] | None:
        """All values, for a grid; None where they are not finite in number."""
        if self.step is None:
            return None
        count = int((self.high - self.low) / self.step + 1e-9) + 1
        return tuple(self.value(self.low + index * self.step) for index in range(count))

    @property
    def probes(self) -> Sequence[Scalar]:
        """Both bounds, and one between that is no whole number: a setting that must be one refuses it."""
        return (self.low, self.high, self.low + (self.high - self.low) * 0.381966)

    def value(self, encoded: Any) -> Any:
        """What a sampler's value is in the recipe: 0.3 where 0.1 + 2 * 0.1 is 0.30000000000000004."""
        return encoded if self.step is None else float(f"{encoded:.12g}")


class Choice(Section):
    """One of a few values."""

    type: Literal["choice"]
    values: tuple[Any, ...] = Field(min_length=2)

    @property
    def points(self) -> Sequence[Scalar] | None:
        """All values, for a grid; a list or mapping as JSON."""
        return tuple(each if isinstance(each, Scalar) else json.dumps(each) for each in self.values)

    @property
    def probes(self) -> Sequence[Scalar]:
        """All values."""
        return self.points or ()

    def value(self, encoded: Any) -> Any:
        """What a sampler's value is in the recipe."""
        return dict(zip(self.points or (), self.values, strict=True))[encoded]


def _check_range(low: float, high: float, log: bool, stepped: bool) -> None:
    if low >= high:
        raise ValueError(f"low {low} must be below high {high}")
    if log and low <= 0:
        raise ValueError(f"low {low}: a log range begins above 0")
    if log and stepped:
        raise ValueError("log and step cannot both be given")


Range = Annotated[IntRange | FloatRange | Choice, Field(discriminator="type")]


class Tune(Section):
    """The search. At least one of `trials` and `time_s` ends it; a grid ends by itself."""

    space: dict[str, Range] = Field(min_length=1)  # dotted key of the recipe -> its values
    sampler: Literal["grid", "random", "tpe", "gp"] = "tpe"
    pruner: Literal["none", "hyperband", "median"] = "none"
    trials: int | None = Field(default=None, gt=0)
    time_s: float | None = Field(default=None, gt=0)  # trials that run then end at their next validation
    workers: int = Field(default=1, gt=0)  # processes; each takes its share of the cores
    seed: int = 7  # of the sampler; each trial trains with the recipe's seed
    optimise: Literal["metric", "loss"] = "metric"  # of valid: what picks the checkpoint, or the loss
    startup_trials: int = Field(default=10, gt=0)  # random ones before tpe and gp have something to go by

    @model_validator(mode="after")
    def _ends(self) -> Tune:
        if self.sampler != "grid" and self.trials is None and self.time_s is None:
            raise ValueError("a search needs an end: give trials, time_s or both")
        endless = [key for key, values in self.space.items() if values.points is None]
        if self.sampler == "grid" and endless:
            raise ValueError(
                f"a grid needs a finite space, and {', '.join(endless)} has no end of values: give a step or a choice"
            )
        return self

    @property
    def method(self) -> str:
        """Sampler, and pruner where there is one, as in `tpe+hyperband`: the name of the search's folder."""
        return self.sampler if self.pruner == "none" else f"{self.sampler}+{self.pruner}"
