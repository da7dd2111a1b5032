"""From observations to figures: percentiles, rates, shares, the timeline. Pure arithmetic, no I/O."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from loadtests.observations import Observation, Outcome
from loadtests.results import Distribution, ErrorRow, KindFigures, Second, Shed, SlowRequest, Totals
from loadtests.settings import Kind, RunSettings
from loadtests.slo import RequestLimits

CURVE = (0, 5, 10, 20, 30, 40, 50, 60, 70, 75, 80, 85, 90, 92.5, 95, 96, 97, 98, 98.5, 99, 99.5, 99.9, 99.99, 100)
MOST_BUCKETS = 120
SLOWEST = 5


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return a percentile of an ordered, non-empty sample, linear between neighbours (numpy's default method)."""
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def distribution(values_ms: Iterable[float]) -> Distribution | None:
    """Describe a sample in milliseconds; None when it is empty."""
    ordered = sorted(values_ms)
    if not ordered:
        return None
    return Distribution(
        count=len(ordered),
        min=ordered[0],
        mean=math.fsum(ordered) / len(ordered),
        p50=percentile(ordered, 50),
        p90=percentile(ordered, 90),
        p95=percentile(ordered, 95),
        p99=percentile(ordered, 99),
        max=ordered[-1],
        curve=tuple((percent, percentile(ordered, percent)) for percent in CURVE),
    )


def time_per_output_token_s(observation: Observation) -> float | None:
    """Return the mean seconds a token took after the first one; None for a stream of fewer than two tokens."""
    if observation.ttft_s is None or observation.tokens is None or observation.tokens < 2 or not observation.gaps_s:
        return None
    return math.fsum(observation.gaps_s) / (observation.tokens - 1)


def is_good(observation: Observation, limits: RequestLimits | None) -> bool:
    """Return whether a request was answered as asked and within every per-request limit."""
    if observation.outcome is not Outcome.OK:
        return False
    if limits is None:
        return True
    measured_s = {
        "latency_ms": observation.latency_s,
        "ttft_ms": observation.ttft_s,
        "tpot_ms": time_per_output_token_s(observation),
    }
    # A stream too short to have a figure cannot have been too slow in it.
    return all(
        (seconds := measured_s[name]) is None or seconds * 1000 <= limit for name, limit in limits.given().items()
    )


def kind_figures(
    kind: Kind,
    observations: Sequence[Observation],
    *,
    settings: RunSettings,
    model: str | None,
    opened_at: float,
    length_s: float,
    limits: RequestLimits | None,
) -> KindFigures:
    """Sum up the measured requests of one kind over a window of `length_s` seconds."""
    answered = [seen for seen in observations if seen.outcome is Outcome.OK]
    good = sum(is_good(seen, limits) for seen in observations)
    asked_per_s = _rate(sum(seen.asked for seen in answered), length_s)
    stages: dict[str, list[float]] = defaultdict(list)
    for seen in answered:
        for stage, milliseconds in seen.server_ms.items():
            stages[stage].append(milliseconds)
    slowest = sorted(answered, key=lambda seen: seen.latency_s, reverse=True)[:SLOWEST]
    errors = sum(seen.outcome is Outcome.ERROR for seen in observations)
    shed = sum(seen.outcome is Outcome.SHED for seen in observations)
    return KindFigures(
        users=settings.users[kind],
        model=model,
        requests=len(observations),
        ok=len(answered),
        errors=errors,
        shed=shed,
        error_share=_share(errors, len(observations)),
        shed_share=_share(shed, len(observations)),
        requests_per_s=_rate(len(answered), length_s),
        good=good,
        good_share=_share(good, len(observations)),
        goodput_per_s=_rate(good, length_s),
        pairs_per_s=asked_per_s if kind is Kind.MATCH else None,
        documents_per_s=asked_per_s if kind is Kind.RERANK else None,
        latency=distribution(seen.latency_s * 1000 for seen in answered),
        server_stages={stage: found for stage, values in stages.items() if (found := distribution(values))},
        slowest=tuple(SlowRequest(request_id=seen.request_id, latency_ms=seen.latency_s * 1000) for seen in slowest),
        timeline=timeline(observations, opened_at, length_s),
        **(_stream_figures(answered, length_s) if kind is Kind.COMPLETION else {}),
    )


def timeline(observations: Sequence[Observation], opened_at: float, length_s: float) -> tuple[Second, ...]:
    """Sort requests by the time they started into buckets of a second, or longer ones when the run was long."""
    width = max(1.0, math.ceil(length_s / MOST_BUCKETS))
    buckets: dict[int, list[Observation]] = {place: [] for place in range(math.ceil(length_s / width))}
    for seen in observations:
        buckets.setdefault(max(0, int((seen.started - opened_at) / width)), []).append(seen)
    return tuple(_bucket(place * width, buckets[place]) for place in sorted(buckets))


def totals(observations: Sequence[Observation], length_s: float, unfinished: int) -> Totals:
    """Sum up the measured requests of all kinds."""
    errors = sum(seen.outcome is Outcome.ERROR for seen in observations)
    answered = sum(seen.outcome is Outcome.OK for seen in observations)
    shed = [seen for seen in observations if seen.outcome is Outcome.SHED]
    waits = [seen.retry_after_s for seen in shed if seen.retry_after_s is not None]
    classes = Counter(f"{seen.status // 100}xx" if seen.status else "none" for seen in observations)
    codes = Counter(seen.failure.code for seen in observations if seen.outcome is Outcome.ERROR and seen.failure)
    return Totals(
        requests=len(observations),
        ok=answered,
        errors=errors,
        error_share=_share(errors, len(observations)),
        requests_per_s=_rate(answered, length_s),
        unfinished=unfinished,
        status_classes=dict(sorted(classes.items())),
        error_codes=dict(codes.most_common()),
        shed=Shed(
            count=len(shed),
            share=_share(len(shed), len(observations)),
            without_retry_after=len(shed) - len(waits),
            retry_after_min_s=min(waits, default=None),
            retry_after_max_s=max(waits, default=None),
        ),
    )


def error_rows(observations: Iterable[Observation]) -> tuple[ErrorRow, ...]:
    """Group errors by kind and cause, the most frequent first; 429s are no errors and have their own count."""
    groups: dict[tuple[Kind, str, str | None, int], list[Observation]] = defaultdict(list)
    for seen in observations:
        if seen.outcome is Outcome.ERROR and seen.failure:
            groups[seen.kind, seen.failure.code, seen.failure.server_code, seen.status].append(seen)
    rows = [
        ErrorRow(
            kind=kind,
            code=code,
            server_code=server_code,
            status=status,
            count=len(members),
            message=members[0].failure.message if members[0].failure else "",
            request_id=members[0].request_id,
        )
        for (kind, code, server_code, status), members in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: -row.count))


def _stream_figures(answered: Sequence[Observation], length_s: float) -> dict[str, Any]:
    tokens = sum(seen.tokens or 0 for seen in answered)
    events = sum(len(seen.gaps_s) + 1 for seen in answered if seen.ttft_s is not None)
    per_token = (time_per_output_token_s(seen) for seen in answered)
    return {
        "tokens_per_s": _rate(tokens, length_s),
        "tokens_per_event": tokens / events if events else None,
        "ttft": distribution(seen.ttft_s * 1000 for seen in answered if seen.ttft_s is not None),
        "itl": distribution(gap * 1000 for seen in answered for gap in seen.gaps_s),
        "tpot": distribution(seconds * 1000 for seconds in per_token if seconds is not None),
    }


def _bucket(at_s: float, members: Sequence[Observation]) -> Second:
    latencies = sorted(seen.latency_s * 1000 for seen in members if seen.outcome is Outcome.OK)
    firsts = sorted(seen.ttft_s * 1000 for seen in members if seen.ttft_s is not None)
    return Second(
        at_s=at_s,
        requests=len(members),
        errors=sum(seen.outcome is Outcome.ERROR for seen in members),
        shed=sum(seen.outcome is Outcome.SHED for seen in members),
        p50_ms=percentile(latencies, 50) if latencies else None,
        p95_ms=percentile(latencies, 95) if latencies else None,
        max_ms=latencies[-1] if latencies else None,
        ttft_p50_ms=percentile(firsts, 50) if firsts else None,
    )


def _rate(count: float, length_s: float) -> float:
    return count / length_s if length_s > 0 else 0.0


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
