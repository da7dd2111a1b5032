"""A search space against the recipe it is for: values put in, and all that the recipe would refuse found beforehand."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from records.document import DocumentError, check_document
from training.recipe import Recipe
from training.tuning.settings import Tune

# Sections that decide where a run lies or what it is judged on: trials would not compare.
FIXED = {"name", "runs", "data", "compress", "tune", "track"}
MAX_COMBINATIONS = 1000


def applied(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with `values` (dotted key -> value) in place and without its `tune`. Raises DocumentError."""
    raw = recipe.model_dump(mode="json", exclude_unset=True, exclude={"tune"})
    for key, value in values.items():
        *parents, last = key.split(".")
        node = raw
        for parent in parents:
            if not isinstance(node.get(parent), dict):
                node[parent] = {}
            node = node[parent]
        node[last] = value
    return check_document(raw, Recipe, "tune.space")


def check_space(recipe: Recipe, tune: Tune) -> None:
    """Raises DocumentError: a key that the recipe does not have, with the nearest that it has; one that may not be
    searched; a value or a combination of bounds that the recipe refuses; too few validations for the pruner."""
    known = sorted(_leaves(recipe.model_dump(exclude=FIXED)))
    problems = [problem for key in tune.space if (problem := _unknown(key, known))]
    if problems:
        raise DocumentError("\n".join(problems))
    validations = 0
    for values in _probes(tune):
        try:
            train = applied(recipe, values).train
        except DocumentError as error:
            shown = ", ".join(f"{key}={value}" for key, value in values.items())
            raise DocumentError(f"{error}\n(of {shown}; narrow the bounds)") from None
        validations = max(validations, math.ceil(train.steps / train.validate_every))
    needed = {"none": 1, "median": 2, "hyperband": 3}[tune.pruner]
    if validations < needed:
        raise DocumentError(
            f"tune.pruner {tune.pruner} needs at least {needed} validations a trial, and train.steps over "
            f"train.validate_every gives {validations}; lower validate_every."
        )


def max_validations(recipe: Recipe, tune: Tune) -> int:
    """The most validations that a trial can have."""
    trains = [applied(recipe, values).train for values in _probes(tune)]
    return max(math.ceil(train.steps / train.validate_every) for train in trains)


def grid(tune: Tune) -> list[dict[str, Any]]:
    """Every point of a finite space, as a sampler names them."""
    each = [values.points or () for values in tune.space.values()]
    return [dict(zip(tune.space, point, strict=True)) for point in itertools.product(*each)]


def decoded(tune: Tune, params: Mapping[str, Any]) -> dict[str, Any]:
    """A sampler's point as values of the recipe."""
    return {key: tune.space[key].value(value) for key, value in params.items()}


def _probes(tune: Tune) -> Iterator[dict[str, Any]]:
    """Combinations of bounds, all where these are few; otherwise each key's alone."""
    each = [[values.value(probe) for probe in values.probes] for values in tune.space.values()]
    if math.prod(map(len, each)) <= MAX_COMBINATIONS:
        yield from (dict(zip(tune.space, combination, strict=True)) for combination in itertools.product(*each))
    else:
        yield from ({key: probe} for key, probes in zip(tune.space, each, strict=True) for probe in probes)


def _unknown(key: str, known: list[str]) -> str | None:
    if key.partition(".")[0] in FIXED:
        return f"tune.space: {key!r} may not be searched: trials would not compare. Keys: {', '.join(known)}."
    # A key below one that is not set now is for the recipe itself to judge.
    if key in known or any(key.startswith(f"{each}.") for each in known):
        return None
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"tune.space: unknown key {key!r}; " + (
        f"did you mean {near[0]!r}?" if near else f"keys: {', '.join(known)}."
    )


def _leaves(section: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in section.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
