"""Half of 64 clients leave in the middle of their request; the others wait for their answers.

In every round all 64 wait first. Then half of them leave, with as many requests a second as they have sent before: the
others must not have less than they had. What they have when nobody else is there is measured too.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from benchmarks.arena import Arena, Running
from benchmarks.bench import Bench, say
from benchmarks.contestants import match_body, sluice
from benchmarks.drivers import driver
from benchmarks.figures import Result, figure
from benchmarks.metrics import counter
from benchmarks.texts import spaced, write_bodies

LIVING = LEAVERS = 32
COMPUTED = "sluice_input_tokens_total"
# Counters are written by engine threads after the answer has gone out.
SETTLE_S = 0.5


class Round(NamedTuple):
    """The living without the others; half of everyone, while all wait; beside leavers: the driver's figures; and the
    share of the computed tokens that nobody read."""

    alone_per_s: float
    half_per_s: float
    beside: dict[str, Any]
    spent: float


def estimate_s(bench: Bench) -> float:
    """One server, three windows a round."""
    return 10 + bench.rounds * (3 * bench.seconds + 3)


def measure(bench: Bench) -> Result:
    """Throughput of the living alone and beside leavers, and the share of computed tokens that nobody read."""
    bodies = write_bodies(bench.scratch / "match.jsonl", bench.pairs, match_body)
    rounds: list[Round] = []
    with Arena() as arena:
        running = arena.start(sluice(bench.artifact, "sluice disconnects", bench.scratch))
        for number in range(bench.rounds):
            with arena.driving(running, spaced(bench.pairs, 64)):
                alone = driver("leavers", running.url, bodies, living=LIVING, seconds=bench.seconds)
                everyone = driver("leavers", running.url, bodies, living=LIVING + LEAVERS, seconds=bench.seconds)
                half_per_s = everyone["living_per_s"] / 2
                every_ms = 1000 * LEAVERS / max(1.0, half_per_s)
                begun = settled(running)
                beside = driver(
                    "leavers",
                    running.url,
                    bodies,
                    living=LIVING,
                    leavers=LEAVERS,
                    every_ms=every_ms,
                    seconds=bench.seconds,
                )
                computed = settled(running) - begun
            spent = 1 - beside["answered_tokens"] / computed
            rounds.append(Round(alone["living_per_s"], half_per_s, beside, spent))
            say(f"disconnects: round {number + 1} of {bench.rounds} done")
    return {
        "what": f"{LIVING} clients that wait, {LEAVERS} that leave 1 to 30 ms after sending",
        "alone_per_s": figure([each.alone_per_s for each in rounds]),
        "half_per_s": figure([each.half_per_s for each in rounds]),
        "beside_per_s": figure([each.beside["living_per_s"] for each in rounds]),
        "share_of_half": figure([each.beside["living_per_s"] / each.half_per_s for each in rounds]),
        "share_of_alone": figure([each.beside["living_per_s"] / each.alone_per_s for each in rounds]),
        "spent_on_the_dead": figure([each.spent for each in rounds]),
        "left": sum(each.beside["left"] for each in rounds),
        "drivers": [each.beside for each in rounds],
    }


def settled(running: Running) -> float:
    """Tokens computed so far, once nothing runs any more."""
    time.sleep(SETTLE_S)
    return counter(running, COMPUTED)
