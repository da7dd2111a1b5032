"""What the streams' stamps mean: time to first token, gaps between tokens, throughput, goodput. Seconds, pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True, slots=True)
class Timing:
    """One request. `arrivals`: of its tokens, at least one where it was answered; empty where it was refused."""

    client: int
    due_s: float
    status: int
    arrivals: tuple[float, ...]
    ended_s: float | None
    tokens: int
    finished: bool
    retry_after: bool = False

    @property
    def ttft_s(self) -> float:
        """From the moment at which it was due. Raises IndexError without a token."""
        return self.arrivals[0] - self.due_s

    @property
    def gaps_s(self) -> list[float]:
        """Between one token and the next."""
        return [later - earlier for earlier, later in pairwise(self.arrivals)]


def timing(exchange: dict[str, Any]) -> Timing:
    """A row of the driver. Events after the last token (the finish, say) are no tokens."""
    tokens = exchange["tokens"] if exchange["tokens"] is not None else len(exchange["arrivals"])
    return Timing(
        exchange["client"],
        exchange["due_s"],
        exchange["status"],
        tuple(exchange["arrivals"][:tokens]) if exchange["status"] == 200 else (),
        exchange["ended_s"],
        tokens if exchange["status"] == 200 else 0,
        exchange["finished"],
        exchange["retry_after"],
    )


def tokens_per_s(timings: Sequence[Timing]) -> float:
    """All tokens, over the time from the first request to the last token."""
    begun = min(each.due_s for each in timings)
    return sum(each.tokens for each in timings) / (max(each.arrivals[-1] for each in timings) - begun)


def goodput_per_s(timings: Iterable[Timing], limit_s: float, seconds: float) -> float:
    """Requests a second that ended within the window and had their first token within `limit_s`."""
    good = [
        each
        for each in timings
        if each.arrivals and each.ttft_s <= limit_s and each.ended_s is not None and each.ended_s <= seconds
    ]
    return len(good) / seconds


def gaps_between(timings: Iterable[Timing], begin_s: float, end_s: float) -> list[float]:
    """The gaps of all streams that touch a span of time."""
    return [
        later - earlier
        for each in timings
        for earlier, later in pairwise(each.arrivals)
        if later >= begin_s and earlier <= end_s
    ]


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which `share` of them lie. Raises ValueError where there are none."""
    ranked = sorted(values)
    if not ranked:
        raise ValueError("no value to take a percentile of")
    return ranked[min(len(ranked) - 1, int(len(ranked) * share))]
