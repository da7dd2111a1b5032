"""The closed loop: wrk, a C program of one thread, with walk.lua so that every request is another pair.

Answers count from WARM_S on, when every connection waits for one: a slow server is not charged for its first answers
being under way. Percentiles are of what was measured: walk.lua takes out the samples that wrk adds by itself.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("walk.lua")
TIMEOUT_S = 30
WARM_S = 1


class DriverFailed(Exception):
    """wrk is missing, or ended without a result; the message has what it said."""


@dataclass(frozen=True, slots=True)
class Loop:
    """What one run of wrk saw. `failures`: answers other than 2xx and 3xx, and broken or timed-out connections."""

    answers_per_s: float
    p50_ms: float
    p99_ms: float
    requests: int
    failures: int


def closed_loop(url: str, bodies: Path, clients: int, seconds: float, first: int) -> Loop:
    """`clients` connections, each with one request at a time, for `seconds`, beginning with body number `first`.

    Raises DriverFailed.
    """
    program = shutil.which("wrk")
    if program is None:
        raise DriverFailed("wrk is not installed; `apt-get install wrk` or `make bench` brings it.")
    duration_s = max(1, round(seconds)) + WARM_S  # wrk takes whole seconds
    command = [program, "--threads", "1", "--connections", str(clients), "--duration", f"{duration_s}s"]
    command += ["--timeout", f"{TIMEOUT_S}s", "--script", str(SCRIPT), url, "--", str(bodies), str(first), str(WARM_S)]
    command.append(str(clients))
    done = subprocess.run(command, capture_output=True, text=True, timeout=duration_s + 2 * TIMEOUT_S)
    return parse(done.stdout, done.stderr)


def parse(stdout: str, stderr: str = "") -> Loop:
    """The line that walk.lua prints, whatever stands around it. Raises DriverFailed where there is none."""
    line = next((line for line in stdout.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise DriverFailed(f"wrk gave no result: {(stderr or stdout).strip()[-300:] or 'it said nothing'}")
    result = json.loads(line.removeprefix("RESULT "))
    failures = sum(result[kind] for kind in ("status", "connect", "read", "write", "timeout"))
    per_s = result["counted"] / (result["seconds"] - WARM_S)
    return Loop(per_s, result["p50_ms"], result["p99_ms"], result["requests"], failures)
