"""Observations and results as a run would leave them, for the tests of what is made from them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from loadtests.figures import distribution, error_rows, kind_figures, totals
from loadtests.metrics import Figures
from loadtests.observations import Failure, Observation, Outcome
from loadtests.results import Ending, GeneratorFacts, ModelFacts, RunResults, ServerFacts, Verdict, Workload
from loadtests.settings import Kind, RunSettings
from loadtests.slo import Slo, judge


def observation(kind: Kind = Kind.MATCH, started: float = 0.0, latency_s: float = 0.1, **given: Any) -> Observation:
    values: dict[str, Any] = {"request_id": "id", "status": 200, "outcome": Outcome.OK, "asked": 2, **given}
    return Observation(kind=kind, started=started, latency_s=latency_s, **values)


def failed(code: str = "http.500", status: int = 500, message: str = "broke", kind: Kind = Kind.MATCH) -> Observation:
    return observation(kind, status=status, outcome=Outcome.ERROR, failure=Failure(code, message, "internal"))


def shed(retry_after_s: float | None) -> Observation:
    return observation(
        status=429, outcome=Outcome.SHED, retry_after_s=retry_after_s, failure=Failure("http.429", "full", "overloaded")
    )


def figures_of(
    observations: list[Observation], length_s: float = 10.0, slo: Slo | None = None, cpu_share: float | None = 0.2
) -> Figures:
    settings = RunSettings(users={Kind.MATCH: 4, Kind.COMPLETION: 2})
    kinds = {
        kind: kind_figures(
            kind,
            [seen for seen in observations if seen.kind is kind],
            settings=settings,
            model=str(kind),
            opened_at=0.0,
            length_s=length_s,
            limits=None if slo is None else slo.content.goodput.of(kind),
        )
        for kind in settings.users
    }
    generator = GeneratorFacts(
        git_commit="0" * 40,
        git_dirty=False,
        cpu_model="a processor",
        cores=2,
        memory_bytes=2**33,
        platform="Linux",
        python="3.11.7",
        libraries={"locust": "2.47.0"},
        cpu_share=cpu_share,
        loop_lag=distribution([0.1, 0.2]),
    )
    return Figures(totals(observations, length_s, unfinished=0), kinds, generator)


def results_of(observations: list[Observation], slo: Slo | None = None, **given: Any) -> RunResults:
    figures = figures_of(observations, slo=slo)
    verdict, judgement = (Verdict.NOT_JUDGED, None) if slo is None else judge(slo, figures)
    settings = RunSettings(users={Kind.MATCH: 4, Kind.COMPLETION: 2})
    values: dict[str, Any] = {
        "verdict": verdict,
        "findings": (),
        "command": "python -m loadtests run",
        "started_at": datetime(2026, 11, 24, 12, tzinfo=UTC),
        "ended_at": datetime(2026, 11, 24, 12, 1, tzinfo=UTC),
        "measured_s": 10.0,
        "ending": Ending.DURATION,
        "host": "http://127.0.0.1:3000",
        "server": ServerFacts(models=(ModelFacts(id="matching", kind="matching"),), headers={}),
        "workload": Workload.model_validate(settings.model_dump(include=set(Workload.model_fields))),
        "totals": figures.totals,
        "kinds": figures.kinds,
        "errors": error_rows(observations),
        "generator": figures.generator,
        "slo": judgement,
        **given,
    }
    return RunResults(**values)


class Samples:
    """The builders above, as one fixture."""

    observation: Callable[..., Observation] = staticmethod(observation)
    failed: Callable[..., Observation] = staticmethod(failed)
    shed: Callable[..., Observation] = staticmethod(shed)
    figures_of: Callable[..., Figures] = staticmethod(figures_of)
    results_of: Callable[..., RunResults] = staticmethod(results_of)


@pytest.fixture
def samples() -> type[Samples]:
    return Samples
