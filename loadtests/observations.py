"""What one request showed, and the window of time in which requests are measured.

Nothing here knows HTTP, Locust or gevent. Times are `time.perf_counter()` seconds, durations seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from loadtests.settings import Kind


class Outcome(StrEnum):
    """How a request ended: answered as asked, refused with 429, or anything else."""

    OK = "ok"
    SHED = "shed"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request is not OK: our code for it, the server's own code, and a sample of the message."""

    code: str  # transport.*, http.*, malformed.*, stream.*
    message: str
    server_code: str | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """One request as its user saw it."""

    kind: Kind
    request_id: str
    started: float
    latency_s: float
    status: int  # 0 when no answer came
    outcome: Outcome
    asked: int  # pairs, documents, or the most tokens
    failure: Failure | None = None
    retry_after_s: float | None = None  # of a 429: what the server asked for, None when it did not say
    ttft_s: float | None = None
    gaps_s: tuple[float, ...] = ()  # between one event with text and the next
    tokens: int | None = None
    server_ms: Mapping[str, float] = field(default_factory=dict)  # the stages of its Server-Timing header


class Window:
    """The stretch of the run whose requests are measured: opened after the warm-up, closed by time or by count."""

    def __init__(self, max_requests: int) -> None:
        self._max_requests = max_requests
        self.opened_at: float | None = None
        self.closed_at: float | None = None
        self.admitted = 0

    @property
    def closed(self) -> bool:
        """True when no further request may start."""
        return self.closed_at is not None

    @property
    def full(self) -> bool:
        """True when the limit of measured requests has been reached."""
        return self.admitted >= self._max_requests

    def open(self, now: float) -> None:
        """Begin to measure: what starts from now on counts."""
        self.opened_at = now

    def close(self, now: float) -> None:
        """End the measurement; later calls change nothing."""
        if self.closed_at is None:
            self.closed_at = now

    def admit(self, now: float) -> bool:
        """Ask to start a request; False means that the run is over. The request that fills the window closes it."""
        if self.closed:
            return False
        if self.opened_at is not None:
            self.admitted += 1
            if self.full:
                self.close(now)
        return True

    def measures(self, started: float, ended: float) -> bool:
        """Return whether a request counts: it started while the window was open, or was under way all the time.

        The latter would otherwise hide a server that hangs: whoever waits since the warm-up starts nothing new.
        """
        if self.opened_at is None or (self.closed_at is not None and started > self.closed_at):
            return False
        return started >= self.opened_at or (self.closed_at is not None and ended > self.closed_at)

    def length_s(self, now: float) -> float:
        """Return how long the window has been, or was, open; 0 when it never opened."""
        if self.opened_at is None:
            return 0.0
        return (now if self.closed_at is None else self.closed_at) - self.opened_at


@dataclass(slots=True)
class Ledger:
    """The requests under way, and the measured ones in the order in which they ended."""

    window: Window
    observations: list[Observation] = field(default_factory=list)
    under_way: int = 0

    def begin(self, now: float) -> bool:
        """Ask to start a request; False means that the run is over."""
        admitted = self.window.admit(now)
        self.under_way += admitted
        return admitted

    def end(self, observation: Observation) -> None:
        """Note that a request has ended, and keep it if it counts."""
        self.under_way -= 1
        if self.window.measures(observation.started, observation.started + observation.latency_s):
            self.observations.append(observation)
