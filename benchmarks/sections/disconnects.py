"""Half of 64 clients leave in the middle of their request; the others wait for their answers.

The leavers send as many requests a second as the living do when they are alone: each comes back after the time that a
living client's request then takes. In every round the living are measured alone first.
"""

from __future__ import annotations

import time
from typing import Any

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


def estimate_s(bench: Bench) -> float:
    """One server, two windows a round."""
    return 10 + bench.rounds * (2 * bench.seconds + 3)


def measure(bench: Bench) -> Result:
    """Throughput of the living alone and beside leavers, and the share of computed tokens that nobody read."""
    bodies = write_bodies(bench.scratch / "match.jsonl", bench.pairs, match_body)
    rounds: list[tuple[dict[str, Any], dict[str, Any], float]] = []
    with Arena() as arena:
        running = arena.start(sluice(bench.artifact, "sluice disconnects", bench.scratch))
        for number in range(bench.rounds):
            with arena.driving(running, spaced(bench.pairs, 64)):
                alone = driver("leavers", running.url, bodies, living=LIVING, seconds=bench.seconds)
                every_ms = 1000 * LIVING / max(1.0, alone["living_per_s"])
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
            rounds.append((alone, beside, 1 - beside["answered_tokens"] / computed))
            say(f"disconnects: round {number + 1} of {bench.rounds} done")
    return {
        "what": f"{LIVING} clients that wait, {LEAVERS} that leave 1 to 30 ms after sending",
        "alone_per_s": figure([alone["living_per_s"] for alone, _, _ in rounds]),
        "beside_per_s": figure([beside["living_per_s"] for _, beside, _ in rounds]),
        "share_of_alone": figure([beside["living_per_s"] / alone["living_per_s"] for alone, beside, _ in rounds]),
        "spent_on_the_dead": figure([spent for _, _, spent in rounds]),
        "left": sum(beside["left"] for _, beside, _ in rounds),
        "drivers": [beside for _, beside, _ in rounds],
    }


def settled(running: Running) -> float:
    """Tokens computed so far, once nothing runs any more."""
    time.sleep(SETTLE_S)
    return counter(running, COMPUTED)
