"""Service level objectives: the YAML file, its rules, and the judgement of a run by them.

A rule is a metric with a least or a greatest value. A rule whose metric has no data fails: an objective that was not
measured was not met.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from loadtests.errors import UsageError
from loadtests.metrics import Figures, catalogue
from loadtests.results import Judgement, RuleOutcome, Verdict
from loadtests.settings import Kind

# Strict: YAML's `yes` and a quoted "200" are refused rather than read as 1 and 200.
Limit = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]


class Rule(BaseModel):
    """The bounds of one metric, both included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: Limit | None = None
    max: Limit | None = None

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("a rule needs min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self


class RequestLimits(BaseModel):
    """What one request must meet to count as goodput."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latency_ms: Limit | None = None

    def given(self) -> dict[str, float]:
        """Return the limits that were set, by name."""
        return {name: value for name, value in self.model_dump().items() if value is not None}


class StreamLimits(RequestLimits):
    """What one stream must meet to count as goodput."""

    ttft_ms: Limit | None = None
    tpot_ms: Limit | None = None


class Goodput(BaseModel):
    """The per-request limits of each kind of user."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    match: RequestLimits | None = None
    rerank: RequestLimits | None = None
    completion: StreamLimits | None = None

    def of(self, kind: Kind) -> RequestLimits | None:
        """Return the limits of one kind, None when it has none."""
        return {Kind.MATCH: self.match, Kind.RERANK: self.rerank, Kind.COMPLETION: self.completion}[kind]


class SloFile(BaseModel):
    """An SLO file as written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1]
    description: str = ""
    rules: Annotated[dict[str, Rule], Field(min_length=1)]
    goodput: Goodput = Goodput()

    @model_validator(mode="after")
    def _metrics_are_known(self) -> Self:
        for name, rule in self.rules.items():
            metric = catalogue().get(name)
            if metric is None:
                raise ValueError(f"{name} is no metric{_did_you_mean(name, catalogue())}; docs/loadtests.md lists them")
            largest = max(limit for limit in (rule.min, rule.max) if limit is not None)
            if metric.unit == "share" and largest > 1:
                raise ValueError(f"{name}: {largest:g} is no share, shares go from 0 to 1 (1 % is 0.01)")
        return self


@dataclass(frozen=True, slots=True)
class Slo:
    """An SLO file that was read, with the name and the hash that the results record."""

    file: str
    sha256: str
    content: SloFile


class _UniqueKeys(yaml.SafeLoader):
    """YAML lets a later key silently replace an earlier one; a rule must not vanish like that."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Hashable, object]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    for key, (key_node, _) in zip(keys, node.value, strict=True):
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", key_node.start_mark)
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_slo(path: Path) -> Slo:
    """Read and check an SLO file; raises UsageError that names the file, the place and what to write instead."""
    try:
        raw = path.read_bytes()
        values = yaml.load(raw, Loader=_UniqueKeys)  # a SafeLoader
    except OSError as error:
        raise UsageError(f"--slo {path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--slo {path}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(
            f"--slo {path}: must be a mapping with version, rules and perhaps goodput, is {type(values).__name__}"
        )
    try:
        content = SloFile.model_validate(values)
    except ValidationError as error:
        problems = "\n".join(
            f"  {_explain(problem['loc'], problem['type'], problem['msg'])}" for problem in error.errors()
        )
        raise UsageError(f"--slo {path}: not a valid SLO file\n{problems}") from error
    return Slo(str(path), hashlib.sha256(raw).hexdigest(), content)


def judge(slo: Slo, figures: Figures) -> tuple[Verdict, Judgement]:
    """Hold the figures of a run against the rules of a file."""
    outcomes = tuple(_judge_rule(name, rule, figures) for name, rule in slo.content.rules.items())
    limits = {kind: found.given() for kind in Kind if (found := slo.content.goodput.of(kind))}
    verdict = Verdict.PASS if all(outcome.ok for outcome in outcomes) else Verdict.FAIL
    return verdict, Judgement(
        file=slo.file,
        sha256=slo.sha256,
        description=slo.content.description,
        goodput_limits=limits,
        rules=outcomes,
    )


def _judge_rule(name: str, rule: Rule, figures: Figures) -> RuleOutcome:
    value = catalogue()[name].read(figures)
    if value is None:
        return RuleOutcome(
            metric=name, min=rule.min, max=rule.max, value=None, ok=False, note="no data: nothing of this was measured"
        )
    ok = (rule.min is None or value >= rule.min) and (rule.max is None or value <= rule.max)
    return RuleOutcome(metric=name, min=rule.min, max=rule.max, value=value, ok=ok)


def _explain(place: tuple[int | str, ...], problem: str, message: str) -> str:
    where = ".".join(str(part) for part in place)
    if problem == "extra_forbidden":
        return f"{where}: unknown key{_did_you_mean(str(place[-1]), _keys_at(place))}"
    return f"{where}: {message.removeprefix('Value error, ')}" if where else message.removeprefix("Value error, ")


def _keys_at(place: tuple[int | str, ...]) -> list[str]:
    if len(place) == 1:
        return list(SloFile.model_fields)
    if place[0] == "rules":
        return list(Rule.model_fields)
    return list(Goodput.model_fields) if len(place) == 2 else list(StreamLimits.model_fields)


def _did_you_mean(name: str, known: object) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)  # type: ignore[call-overload]
    return f", did you mean {near[0]}?" if near else ""
