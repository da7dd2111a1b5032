"""One load test from its settings to its results: ask the server, drive it, sum up, judge."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

from loadtests.drive import Drive, drive
from loadtests.figures import distribution, error_rows, kind_figures, totals
from loadtests.findings import findings
from loadtests.metrics import Figures
from loadtests.observations import Ledger, Window
from loadtests.progress import Progress
from loadtests.provenance import describe_generator
from loadtests.results import Ending, RunResults, ServerFacts, Verdict, Workload
from loadtests.server import choose_models, inspect_server, request_headers
from loadtests.settings import RunSettings
from loadtests.slo import Slo, judge
from loadtests.users import Job, new_numbers


def run_load_test(settings: RunSettings, slo: Slo | None, command: str, progress: Progress) -> RunResults:
    """Drive the server and return the judged results; raises ServerNotReady, UsageError and GeneratorFault."""
    server = inspect_server(settings)
    models = choose_models(settings, server)
    users = ", ".join(f"{count} {kind} ({models[kind]})" for kind, count in settings.users.items())
    progress.say(
        f"driving {settings.host} with {users}; {settings.warm_up_s:g} s warm-up, {settings.duration_s:g} s measured"
    )
    job = Job(
        # The run's own part of every request id, so that two runs can be told apart in the server's log.
        run_id=f"lt{secrets.token_hex(3)}",
        settings=settings,
        models=models,
        headers=request_headers(settings),
        ledger=Ledger(Window(settings.max_requests)),
        numbers=new_numbers(),
    )
    started_at = datetime.now(UTC)
    driven = drive(job, progress)
    return _sum_up(job, driven, server, slo, command, started_at)


def _sum_up(
    job: Job, driven: Drive, server: ServerFacts, slo: Slo | None, command: str, started_at: datetime
) -> RunResults:
    settings, seen = job.settings, job.ledger.observations
    kinds = {
        kind: kind_figures(
            kind,
            [observation for observation in seen if observation.kind is kind],
            settings=settings,
            model=job.models[kind],
            opened_at=driven.opened_at,
            length_s=driven.measured_s,
            limits=None if slo is None else slo.content.goodput.of(kind),
        )
        for kind in settings.users
    }
    figures = Figures(
        totals=totals(seen, driven.measured_s, job.ledger.under_way),
        kinds=kinds,
        generator=describe_generator(driven.cpu_share, distribution(driven.lags_ms)),
    )
    verdict, judgement = (Verdict.NOT_JUDGED, None) if slo is None else judge(slo, figures)
    if driven.ending is Ending.INTERRUPTED and verdict is Verdict.PASS:
        verdict = Verdict.NOT_JUDGED  # half a run cannot vouch for a release
    return RunResults(
        verdict=verdict,
        findings=tuple(findings(settings, figures, driven.ending, driven.measured_s)),
        command=command,
        started_at=started_at,
        ended_at=datetime.now(UTC),
        measured_s=driven.measured_s,
        ending=driven.ending,
        host=settings.host,
        server=server,
        workload=Workload.model_validate(settings.model_dump(include=set(Workload.model_fields))),
        totals=figures.totals,
        kinds=kinds,
        errors=error_rows(seen),
        generator=figures.generator,
        slo=judgement,
    )
