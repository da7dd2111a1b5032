"""`python -m benchmarks.openloop`: requests at a constant rate whatever the answers do, or a closed loop, same make.

Latency runs from the moment at which a request was due, so a driver or server that falls behind cannot hide it.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.connections import Connection, Cost, Ring, Tally, read_requests, show

DRAIN_S = 30.0
TICK_S = 0.002


@dataclass(frozen=True, slots=True)
class Pace:
    """Arrivals at `per_s` for `seconds`: number k is due k / per_s after the beginning."""

    per_s: float
    seconds: float

    @property
    def total(self) -> int:
        return int(self.per_s * self.seconds)

    def due_s(self, number: int) -> float:
        return number / self.per_s

    def arrived(self, elapsed_s: float) -> int:
        """How many are due by now."""
        return min(self.total, int(elapsed_s * self.per_s) + 1)


def open_loop(url: str, requests: list[bytes], pace: Pace, connections: int) -> dict[str, Any]:
    """Send at the given pace over a pool of keep-alive connections; a request that finds none free waits for one."""
    idle = [Connection(url) for _ in range(connections)]
    ring, tally, cost = Ring(), Tally(), Cost()
    sent, furthest_behind_s = 0, 0.0
    begun = time.perf_counter()
    while (sent < pace.total or len(ring)) and time.perf_counter() - begun < pace.seconds + DRAIN_S:
        due = pace.arrived(time.perf_counter() - begun)
        while sent < due and idle:
            at = begun + pace.due_s(sent)
            furthest_behind_s = max(furthest_behind_s, time.perf_counter() - at)
            ring.send(idle.pop(), requests[sent % len(requests)], at)
            sent += 1
        until = begun + pace.due_s(sent) if sent < pace.total and idle else time.perf_counter() + 0.1
        # What is due within a tick is sent together: a driver that wakes for each request takes CPU from the server.
        time.sleep(TICK_S)
        for connection, at, answer in ring.answers(until - time.perf_counter()):
            tally.add(answer, time.perf_counter() - float(at))  # type: ignore[arg-type]
            if isinstance(answer, OSError):
                ring.leave(connection)
                connection = Connection(url)
            idle.append(connection)
    return {
        **outcome(tally, cost),
        "sent": sent,
        "not_sent": pace.total - sent,
        "unanswered": len(ring),
        "furthest_behind_ms": furthest_behind_s * 1000,
    }


def closed_loop(url: str, requests: list[bytes], clients: int, seconds: float, warm_s: float = 1.0) -> dict[str, Any]:
    """`clients` connections, each with one request at a time; answers count from `warm_s` to the end."""
    ring, tally, cost = Ring(), Tally(), Cost()
    begun = time.perf_counter()
    for number in range(clients):
        ring.send(Connection(url), requests[number % len(requests)], begun)
    sent = clients
    while (now := time.perf_counter()) < begun + warm_s + seconds:
        for connection, at, answer in ring.answers(begun + warm_s + seconds - now):
            now = time.perf_counter()
            if now >= begun + warm_s:
                tally.add(answer, now - float(at))  # type: ignore[arg-type]
            if isinstance(answer, OSError):
                ring.leave(connection)
                connection = Connection(url)
            ring.send(connection, requests[sent % len(requests)], now)
            sent += 1
    return {**outcome(tally, cost), "per_s": len(tally.latencies_s) / seconds}


def outcome(tally: Tally, cost: Cost) -> dict[str, Any]:
    """What both loops tell."""
    return {
        "statuses": tally.statuses,
        "without_retry_after": tally.without_retry_after,
        "p50_ms": tally.percentile_ms(0.5),
        "p99_ms": tally.percentile_ms(0.99),
        "max_ms": tally.percentile_ms(1.0),
        "driver_cpu_share": cost.share(),
    }


def main(arguments: list[str]) -> int:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.openloop", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("bodies", type=Path, help="one JSON document a line")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rate", type=float, help="requests a second; without it, a closed loop")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--deadline-ms", type=int, default=30_000)
    options = parser.parse_args(arguments)
    requests = read_requests(options.url, options.bodies, {"X-Request-Deadline-Ms": str(options.deadline_ms)})
    if options.rate:
        show(open_loop(options.url, requests, Pace(options.rate, options.seconds), options.connections))
    else:
        show(closed_loop(options.url, requests, options.connections, options.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
