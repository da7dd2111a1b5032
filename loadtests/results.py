"""The results of a run as they are written: `results.json`, read again by the report, by scripts and by a release gate.

A field that is None was not measured, which is never the same as 0. Raise SCHEMA when a field changes its meaning.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from loadtests.settings import Kind

SCHEMA: Final = "sluice.loadtest/1"
Share = Annotated[float, Field(ge=0, le=1)]


class Record(BaseModel):
    """Frozen, and refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Distribution(Record):
    """A sample of durations in milliseconds; percentiles interpolate linearly between the sorted values."""

    count: int
    min: float
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float
    curve: tuple[tuple[float, float], ...]  # (percentile, ms), for the plots


class SlowRequest(Record):
    """One of the slowest requests, to be looked up in the server's log."""

    request_id: str
    latency_ms: float


class Second(Record):
    """One bucket of the timeline: the requests that started in it."""

    at_s: float
    requests: int
    errors: int
    shed: int
    p50_ms: float | None
    p95_ms: float | None
    max_ms: float | None
    ttft_p50_ms: float | None


class KindFigures(Record):
    """The figures of one kind of user. Rates and latencies are of requests that were answered as asked."""

    users: int
    model: str | None
    requests: int
    ok: int
    errors: int
    shed: int
    error_share: Share | None
    shed_share: Share | None
    requests_per_s: float
    good: int  # OK and within the per-request limits of the SLO file; all OK ones without such limits
    good_share: Share | None  # of all requests
    goodput_per_s: float
    pairs_per_s: float | None = None
    documents_per_s: float | None = None
    tokens_per_s: float | None = None
    tokens_per_event: float | None = None  # above 1, a gap between events covers several tokens
    latency: Distribution | None
    ttft: Distribution | None = None  # request sent to first text
    itl: Distribution | None = None  # gaps between events with text, all streams pooled
    tpot: Distribution | None = None  # per stream: (last text - first text) / (tokens - 1)
    server_stages: dict[str, Distribution] = Field(default_factory=dict)  # the Server-Timing header
    slowest: tuple[SlowRequest, ...] = ()
    timeline: tuple[Second, ...] = ()


class ErrorRow(Record):
    """Errors of one kind and cause, with the first as an example."""

    kind: Kind
    code: str
    server_code: str | None
    status: int
    count: int
    message: str
    request_id: str


class Shed(Record):
    """The 429 answers, and whether each said when to come back."""

    count: int
    share: Share | None
    without_retry_after: int
    retry_after_min_s: float | None
    retry_after_max_s: float | None


class Totals(Record):
    """All kinds together."""

    requests: int
    ok: int
    errors: int
    error_share: Share | None
    requests_per_s: float
    unfinished: int  # started while measuring, and given up when the run was interrupted
    status_classes: dict[str, int]  # 2xx, 4xx, 5xx, none
    error_codes: dict[str, int]
    shed: Shed


class ModelFacts(BaseModel):
    """One entry of the server's GET /v1/models; what else it says is kept as it is."""

    model_config = ConfigDict(frozen=True, extra="allow")

    id: str
    kind: str | None = None
    precision: str | None = None
    stage: str | None = None


class ServerFacts(Record):
    """What the server says about itself before the load."""

    models: tuple[ModelFacts, ...]
    headers: dict[str, str]


class GeneratorFacts(Record):
    """The machine and the software that made the load, and whether they kept up."""

    git_commit: str | None
    git_dirty: bool | None
    cpu_model: str
    cores: int  # that this process may use
    memory_bytes: int
    platform: str
    python: str
    libraries: dict[str, str]
    cpu_share: float | None  # of one core, while measuring; near 1 the generator itself is the limit
    loop_lag: Distribution | None  # how late a timer fired: the error of every other time here


class Ending(StrEnum):
    """Why the measurement ended."""

    DURATION = "duration"
    MAX_REQUESTS = "max_requests"
    INTERRUPTED = "interrupted"


class Workload(Record):
    """What was sent. Users are closed-loop: each sends its next request when the last one has ended."""

    seed: int
    users: dict[Kind, int]
    spawn_rate: float
    warm_up_s: float
    duration_s: float
    max_requests: int
    timeout_s: float
    items: int
    text_words: int
    prompt_words: int
    max_tokens: int


class RuleOutcome(Record):
    """One rule of the SLO file beside the figure that it judges."""

    metric: str
    min: float | None
    max: float | None
    value: float | None
    ok: bool
    note: str = ""


class Judgement(Record):
    """The SLO file and each of its rules."""

    file: str
    sha256: str
    description: str
    goodput_limits: dict[Kind, dict[str, float]]
    rules: tuple[RuleOutcome, ...]


class Verdict(StrEnum):
    """Whether every rule held; not judged when the run had no SLO file."""

    PASS = "pass"
    FAIL = "fail"
    NOT_JUDGED = "not_judged"


class RunResults(Record):
    """One load test, complete in itself."""

    schema_version: Literal["sluice.loadtest/1"] = SCHEMA
    verdict: Verdict
    findings: tuple[str, ...]  # what a reader must know before trusting or comparing the figures
    command: str
    started_at: datetime
    ended_at: datetime
    measured_s: float
    ending: Ending
    host: str
    server: ServerFacts
    workload: Workload
    totals: Totals
    kinds: dict[Kind, KindFigures]
    errors: tuple[ErrorRow, ...]
    generator: GeneratorFacts
    slo: Judgement | None
