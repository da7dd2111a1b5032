"""Three times what the server can do, at a constant rate that does not care, with a deadline on every request."""

from __future__ import annotations

from benchmarks.arena import Arena
from benchmarks.bench import Bench, say
from benchmarks.contestants import match_body, sluice
from benchmarks.drivers import driver
from benchmarks.figures import Result
from benchmarks.metrics import Memory, quarters
from benchmarks.texts import spaced, write_bodies

TIMES = 3
CLIENTS = 64
DEADLINE_MS = 1000
# More than can be in flight: those in the queue wait less than the deadline, the refused are answered at once.
CONNECTIONS = 1024


def estimate_s(bench: Bench) -> float:
    """The closed loop before, the flood, a second closed loop to see that it has recovered."""
    return 10 + bench.overload_s + 4 * bench.seconds + 5


def measure(bench: Bench) -> Result:
    """Statuses, goodput, latency of the accepted, memory by the second."""
    bodies = write_bodies(bench.scratch / "match.jsonl", bench.pairs, match_body)
    closed = {"seconds": 2 * bench.seconds, "connections": CLIENTS}
    with Arena() as arena:
        running = arena.start(sluice(bench.artifact, "sluice overload", bench.scratch))
        with arena.driving(running, spaced(bench.pairs, 64)):
            before = driver("openloop", running.url, bodies, **closed)
            rate = TIMES * before["per_s"]
            say(f"overload: saturated at {before['per_s']:.0f}/s; {rate:.0f}/s for {bench.overload_s:.0f} s from here")
            with Memory(running) as memory:
                flood = driver(
                    "openloop",
                    running.url,
                    bodies,
                    seconds=bench.overload_s,
                    rate=rate,
                    connections=CONNECTIONS,
                    deadline_ms=DEADLINE_MS,
                )
            after = driver("openloop", running.url, bodies, **closed)
    second, last = quarters(memory.samples_mb)
    return {
        "what": f"{rate:.0f} requests/s, {TIMES} times the saturated throughput, for {bench.overload_s:.0f} s",
        "deadline_ms": DEADLINE_MS,
        "saturated": before,
        "flood": flood,
        "after": after,
        "goodput_per_s": flood["statuses"].get("200", 0) / bench.overload_s,
        "rss_mb": [round(value, 1) for value in memory.samples_mb],
        "rss_second_quarter_mb": second,
        "rss_last_quarter_mb": last,
    }
