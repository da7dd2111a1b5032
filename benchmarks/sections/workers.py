"""Two workers of one thread each against one worker that uses both cores, at 1, 16 and 64 clients."""

from __future__ import annotations

from benchmarks.arena import Arena, Running
from benchmarks.bench import CLIENTS, Bench, say
from benchmarks.contestants import sluice
from benchmarks.figures import Result
from benchmarks.sections.peers import Rows, one_round, row_figures
from benchmarks.wrk import WARM_S

WORKER = "_bentoml_impl.worker"


def estimate_s(bench: Bench) -> float:
    """Two servers, three windows each a round."""
    return 20 + bench.rounds * 2 * len(CLIENTS) * (bench.seconds + WARM_S + 0.5)


def measure(bench: Bench) -> Result:
    """A row for the default and one for two workers; `workers` says how many processes each really had."""
    default = sluice(bench.artifact, "sluice default", bench.scratch)
    two = sluice(
        bench.artifact,
        "sluice two workers",
        bench.scratch,
        "2 workers, half the cores each",
        SLUICE_WORKERS="2",
    )
    rows: Rows = {}
    first = 0
    with Arena() as arena:
        running = [arena.start(default), arena.start(two)]
        workers = {each.contestant.name: count(each) for each in running}
        for number in range(bench.rounds):
            for each in running if number % 2 == 0 else reversed(running):
                first += one_round(arena, each, bench, first, rows.setdefault(each.contestant.name, {}))
            say(f"workers: round {number + 1} of {bench.rounds} done")
    people = {each.contestant.name: each.contestant for each in running}
    return {"workers": workers, "rows": {name: row_figures(people[name], loops) for name, loops in rows.items()}}


def count(running: Running) -> int:
    """Worker processes of a BentoML server."""
    return sum(any(WORKER in part for part in each.cmdline()) for each in running.family())
