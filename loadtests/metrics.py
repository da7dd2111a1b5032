"""Every figure that an SLO rule can name, declared once: SLO files, the report and docs/loadtests.md follow it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from loadtests.results import Distribution, GeneratorFacts, KindFigures, Totals
from loadtests.settings import Kind


@dataclass(frozen=True, slots=True)
class Figures:
    """What a rule can look at."""

    totals: Totals
    kinds: Mapping[Kind, KindFigures]
    generator: GeneratorFacts


@dataclass(frozen=True, slots=True)
class Metric:
    """A named figure: `read` returns None when the run has no data for it."""

    name: str
    unit: str  # "ms", "1/s", "share" (0 to 1) or "count"
    meaning: str
    read: Callable[[Figures], float | None]


POINTS = {
    "min": "smallest",
    "mean": "mean",
    "p50": "median",
    "p90": "90th percentile of",
    "p95": "95th percentile of",
    "p99": "99th percentile of",
    "max": "largest",
}
DURATIONS = {
    "latency": ("", "latency of a request answered as asked"),
    "ttft": ("ttft_", "time from the request to the first text of its stream"),
    "itl": ("itl_", "gap between one event with text and the next, all streams pooled"),
    "tpot": ("tpot_", "mean time per token of a stream after its first"),
}
COUNTED = {Kind.MATCH: ("pairs_per_s", "pairs"), Kind.RERANK: ("documents_per_s", "documents")}


@cache
def catalogue() -> Mapping[str, Metric]:
    """Return every metric by its name, in the order in which they are documented."""
    metrics = [metric for kind in Kind for metric in _of_kind(kind)] + list(_of_all_kinds())
    return MappingProxyType({metric.name: metric for metric in metrics})


def _of_kind(kind: Kind) -> list[Metric]:
    def figure(name: str, unit: str, meaning: str) -> Metric:
        def read(figures: Figures) -> float | None:
            found = figures.kinds.get(kind)
            # A rate or a count of nothing sent is no data; a zero would pass a `max` rule silently.
            return getattr(found, name) if found is not None and found.requests else None

        return Metric(f"{kind}.{name}", unit, meaning, read)

    def point(series: str, name: str) -> Metric:
        prefix, subject = DURATIONS[series]

        def read(figures: Figures) -> float | None:
            found = figures.kinds.get(kind)
            values: Distribution | None = getattr(found, series) if found is not None else None
            return None if values is None else getattr(values, name)

        return Metric(f"{kind}.{prefix}{name}_ms", "ms", f"{POINTS[name]} {subject}", read)

    series = ("latency", "ttft", "itl", "tpot") if kind is Kind.COMPLETION else ("latency",)
    metrics = [point(of, name) for of in series for name in POINTS]
    metrics.append(figure("requests_per_s", "1/s", "requests answered as asked, per second"))
    metrics.append(figure("goodput_per_s", "1/s", "requests within the file's goodput limits, per second"))
    metrics.append(figure("good_share", "share", "share of the requests within the file's goodput limits"))
    if kind is Kind.COMPLETION:
        metrics.append(figure("tokens_per_s", "1/s", "tokens received, all streams together, per second"))
    else:
        name, things = COUNTED[kind]
        metrics.append(figure(name, "1/s", f"{things} in the requests answered as asked, per second"))
    metrics.append(figure("requests", "count", "requests measured"))
    metrics.append(figure("error_share", "share", "share of the requests that ended in an error"))
    metrics.append(figure("shed_share", "share", "share of the requests refused with 429"))
    return metrics


def _of_all_kinds() -> list[Metric]:
    def total(name: str, unit: str, meaning: str, read: Callable[[Totals], float | None]) -> Metric:
        return Metric(name, unit, meaning, lambda figures: read(figures.totals) if figures.totals.requests else None)

    return [
        total("requests.count", "count", "requests measured, all kinds", lambda all_: all_.requests),
        total(
            "requests.per_s",
            "1/s",
            "requests answered as asked, all kinds, per second",
            lambda all_: all_.requests_per_s,
        ),
        total("errors.share", "share", "share of all requests that ended in an error", lambda all_: all_.error_share),
        total("errors.count", "count", "requests that ended in an error", lambda all_: all_.errors),
        total("shed.share", "share", "share of all requests refused with 429", lambda all_: all_.shed.share),
        total("shed.count", "count", "requests refused with 429", lambda all_: all_.shed.count),
        total(
            "shed.without_retry_after",
            "count",
            "429 answers without a readable Retry-After header",
            lambda all_: all_.shed.without_retry_after,
        ),
        Metric(
            "generator.cpu_share",
            "share",
            "share of one core that the load generator used; near 1 it is the limit itself",
            lambda figures: figures.generator.cpu_share,
        ),
        Metric(
            "generator.loop_lag_p95_ms",
            "ms",
            "95th percentile of how late the generator's own timers fired: the error of its other times",
            lambda figures: None if figures.generator.loop_lag is None else figures.generator.loop_lag.p95,
        ),
    ]
