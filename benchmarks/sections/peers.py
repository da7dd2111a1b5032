"""Single-pair requests at 1, 16 and 64 clients: ours and every peer, beside the raw in-process limits.

Rounds are interleaved, each begins with another contestant, and only one process computes at any time. A peer that
cannot be made, started, or does not give the model's scores is left out and the result says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.arena import Arena, Running
from benchmarks.bench import CLIENTS, PARITY_PAIRS, Bench, alone, say
from benchmarks.contestants import Contestant, bentoml_batchable, sluice, torch_peers
from benchmarks.figures import Result, cores, figure
from benchmarks.raw import Raw, WholeSession
from benchmarks.texts import spaced, write_bodies
from benchmarks.wrk import WARM_S, DriverFailed, Loop, closed_loop
from demo.commands import StepFailed
from runtime.backends.onnx import OnnxEncoder
from runtime.errors import SluiceError
from runtime.manifest import read_manifest

RAW_PAIRS = 960
ATTEMPTS = 2
FAILURES = (StepFailed, DriverFailed, SluiceError, OSError, ValueError)
Rows = dict[str, dict[int, list[Loop]]]
Makers = Iterator[tuple[str, Callable[[], Contestant]]]


def estimate_s(bench: Bench) -> float:
    """Start of seven servers, then the rounds."""
    return 90 + bench.rounds * (7 * len(CLIENTS) * (bench.seconds + WARM_S + 0.5) + 25)


def measure(bench: Bench) -> Result:
    """Rows and raw limits; `failed` names who is not among them."""
    raws = raw_limits(bench)
    failed: dict[str, str] = {}
    rows: Rows = {}
    limits: dict[str, list[tuple[float, float]]] = {name: [] for name in raws}
    first = 0
    with Arena() as arena:
        running = list(started(arena, contestants(bench), bench, failed))
        for number in range(bench.rounds):
            for name, raw in raws.items():
                limits[name].append((raw.pairs_per_s(), raw.p50_ms()))
            turn = number % max(1, len(running))
            for each in running[turn:] + running[:turn]:
                name = each.contestant.name
                if name in failed:
                    continue
                try:
                    first += one_round(arena, each, bench, first, rows.setdefault(name, {}))
                except FAILURES as error:
                    failed[name] = f"in round {number + 1}: {error}"
                    say(f"{name} is left out from here: {error}")
            say(f"peers: round {number + 1} of {bench.rounds} done")
    people = {each.contestant.name: each.contestant for each in running}
    return {
        "raw": {name: raw_figures(values) for name, values in limits.items()},
        "limit": figure([max(each) for each in zip(*best_of(limits, "int8"), strict=True)]),
        "rows": {name: row_figures(people[name], loops) for name, loops in rows.items() if loops},
        "failed": failed,
    }


def contestants(bench: Bench) -> Makers:
    """A name to say if it cannot be had, and how to get it."""
    fp32 = bench.run / "fp32"
    yield "sluice int8", lambda: sluice(bench.artifact, "sluice int8", bench.scratch)
    yield "sluice fp32", lambda: sluice(fp32, "sluice fp32", bench.scratch)
    yield "bentoml batchable int8", lambda: bentoml_batchable(bench.artifact)
    yield "bentoml batchable fp32", lambda: bentoml_batchable(fp32)
    yield from torch_peers(bench.run / "checkpoint", bench.scratch)


def started(arena: Arena, makers: Makers, bench: Bench, failed: dict[str, str]) -> Iterator[Running]:
    """Those that run and score as they should; the others are in `failed` with the reason."""
    pairs = spaced(bench.pairs, PARITY_PAIRS)
    expected: dict[str, list[float]] = {}
    for name, make in makers:
        for attempt in range(ATTEMPTS):
            try:
                running = arena.start(make())
                precision = running.contestant.precision
                if precision not in expected:
                    expected[precision] = alone(artifact_of(bench, precision), pairs)
                with arena.driving(running, pairs[:1]):
                    difference = running.largest_difference(pairs, expected[precision])
            except FAILURES as error:
                failed[name] = str(error)
                say(f"{name}, attempt {attempt + 1} of {ATTEMPTS}: {error}")
                continue
            failed.pop(name, None)
            say(f"{name} is ready; its scores differ from the model's by {difference:.1e} at most")
            yield running
            break


def artifact_of(bench: Bench, precision: str) -> Path:
    """The artifact whose scores a contestant of this precision must give."""
    return bench.artifact if read_manifest(bench.artifact).precision == precision else bench.run / "fp32"


def one_round(arena: Arena, running: Running, bench: Bench, first: int, loops: dict[int, list[Loop]]) -> int:
    """One window at each number of clients; returns how many bodies were used."""
    bodies = bench.scratch / f"{running.contestant.name.replace(' ', '-')}.jsonl"
    if not bodies.is_file():
        write_bodies(bodies, bench.pairs, running.contestant.body)
    used = 0
    with arena.driving(running, spaced(bench.pairs, PARITY_PAIRS)):
        for clients in CLIENTS:
            loop = closed_loop(running.url, bodies, clients, bench.seconds, first + used)
            loops.setdefault(clients, []).append(loop)
            used += loop.requests
    return used


def raw_limits(bench: Bench) -> dict[str, Raw]:
    """In process, on all cores: as many one-thread streams of batches as cores, and one session of as many threads."""
    from runtime.backends.torch import TorchMatching  # takes seconds to import, and no other section needs it

    pairs = spaced(bench.pairs, RAW_PAIRS)
    raws = {}
    for precision, artifact in (("int8", bench.artifact), ("fp32", bench.run / "fp32")):
        graph = artifact / (read_manifest(artifact).graph or "")
        raws[f"{precision} streams"] = Raw(artifact, OnnxEncoder(graph), pairs, cores())
        raws[f"{precision} session"] = Raw(artifact, WholeSession(graph, cores()), pairs, 1)
    checkpoint = bench.run / "checkpoint"
    return raws | {"fp32 torch": Raw(checkpoint, TorchMatching(checkpoint), pairs, 1)}


def best_of(limits: dict[str, list[tuple[float, float]]], precision: str) -> list[list[float]]:
    """Pairs/s of both raw forms of a precision, round by round."""
    return [[per_s for per_s, _ in limits[f"{precision} {form}"]] for form in ("streams", "session")]


def raw_figures(values: list[tuple[float, float]]) -> dict[str, Any]:
    """Throughput and the latency of one pair."""
    return {"per_s": figure([each[0] for each in values]), "p50_ms": figure([each[1] for each in values])}


def row_figures(contestant: Contestant, loops: dict[int, list[Loop]]) -> dict[str, Any]:
    """One contestant: who it is, and its figures at each number of clients."""
    return {
        "precision": contestant.precision,
        "tuning": contestant.tuning,
        "clients": {str(clients): loop_figures(each) for clients, each in loops.items()},
    }


def loop_figures(loops: list[Loop]) -> dict[str, Any]:
    """All rounds of one row."""
    return {
        "per_s": figure([loop.answers_per_s for loop in loops]),
        "p50_ms": figure([loop.p50_ms for loop in loops]),
        "p99_ms": figure([loop.p99_ms for loop in loops]),
        "failures": sum(loop.failures for loop in loops),
    }
