"""`python -m benchmarks.leavers`: clients that wait for their answers, beside clients that leave before they get one.

A leaver connects, sends, closes its socket a random 1 to 30 ms later, and comes back when `--every-ms` have passed
since it had come. An answer that was there before it left is counted as an answer.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import re
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.connections import Answer, Connection, Cost, Ring, Tally, read_requests, show

STAY_S = (0.001, 0.030)
LIVING, LEAVER = "living", "leaver"
TOKENS = re.compile(rb'"total_tokens": ?(\d+)')


def drive(url: str, requests: list[bytes], living: int, leavers: int, seconds: float, every_s: float) -> dict[str, Any]:
    """Both kinds for `seconds`; then those who wait get their last answers."""
    draw = random.Random(7)
    ring, tally, cost = Ring(), Tally(), Cost()
    begun = time.perf_counter()
    until = begun + seconds
    sent = tokens = left = answered_before = after = 0
    serial = itertools.count()  # breaks ties
    # When, and who leaves then; None: a leaver comes.
    plan: list[tuple[float, int, Connection | None]] = [
        (begun + every_s * number / leavers, next(serial), None) for number in range(leavers)
    ]
    open_leavers: set[Connection] = set()

    def ask(connection: Connection, who: str) -> None:
        nonlocal sent
        ring.send(connection, requests[sent % len(requests)], (who, time.perf_counter()))
        sent += 1

    for _ in range(living):
        ask(Connection(url), LIVING)
    while len(ring) or time.perf_counter() < until:
        now = time.perf_counter()
        if now > until + 30:
            break
        while plan and plan[0][0] <= now:
            at, _, connection = heapq.heappop(plan)
            if connection is not None:
                if connection in open_leavers:
                    open_leavers.discard(connection)
                    ring.leave(connection)
                    left += 1
            elif now < until:
                visitor = Connection(url)
                open_leavers.add(visitor)
                ask(visitor, LEAVER)
                heapq.heappush(plan, (now + draw.uniform(*STAY_S), next(serial), visitor))
                heapq.heappush(plan, (max(now, at + every_s), next(serial), None))
        wait_s = min(plan[0][0] - now if plan else 0.1, 0.1)
        for connection, about, answer in ring.answers(wait_s):
            who, at = about  # type: ignore[misc]
            now = time.perf_counter()
            found = TOKENS.search(answer.body) if isinstance(answer, Answer) and answer.status == 200 else None
            tokens += int(found[1]) if found else 0
            if who == LEAVER:
                answered_before += 1
                open_leavers.discard(connection)
                ring.leave(connection)
                continue
            tally.add(answer, now - at)
            after += now > until
            if isinstance(answer, OSError):
                ring.leave(connection)
                connection = Connection(url)
            if now < until:
                ask(connection, LIVING)
    return {
        "statuses": tally.statuses,
        "living_per_s": (len(tally.latencies_s) - after) / seconds,
        "living_p50_ms": tally.percentile_ms(0.5),
        "answered_tokens": tokens,
        "left": left,
        "answered_before_leaving": answered_before,
        "driver_cpu_share": cost.share(),
    }


def main(arguments: list[str]) -> int:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.leavers", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("bodies", type=Path, help="one JSON document a line")
    parser.add_argument("--living", type=int, required=True)
    parser.add_argument("--leavers", type=int, default=0)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--every-ms", type=float, default=100.0)
    options = parser.parse_args(arguments)
    requests = read_requests(options.url, options.bodies)
    every_s = options.every_ms / 1000
    show(drive(options.url, requests, options.living, options.leavers, options.seconds, every_s))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
