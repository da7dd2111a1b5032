"""From the start of `bentoml serve` to the first 200 on /v1/match, with the phases in between, several times over.

Seen from outside: when the process began, when it started its worker, when a match was answered. Told by the worker's
log: its imports, loading (with the check of every hash) and warm-up.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

from benchmarks.arena import LOGS
from benchmarks.bench import Bench, say
from benchmarks.contestants import HOST, Contestant, sluice
from benchmarks.figures import Result, figure
from benchmarks.metrics import mapped
from benchmarks.sections.workers import WORKER
from demo.commands import StepFailed, free_port
from runtime.contract import Pair

T = TypeVar("T")
POLL_S = 0.01
LIMIT_S = 90.0
STOP_S = 30.0
TORCH = "libtorch"
IMPORTS = re.compile(r"interpreter and imports took ([\d.]+) s")
LOADED = re.compile(r"loaded in ([\d.]+) s, warmed up in ([\d.]+) s")


def estimate_s(bench: Bench) -> float:
    """Start and stop."""
    return bench.starts * 7


def measure(bench: Bench) -> Result:
    """First 200, phases, memory, and whether torch is mapped in any process of the server."""
    contestant = sluice(bench.artifact, "sluice coldstart", bench.scratch)
    starts = []
    for number in range(bench.starts):
        starts.append(start(contestant, bench.pairs[number % len(bench.pairs)], LOGS / "coldstart.log"))
        say(f"coldstart: {number + 1} of {bench.starts}, first 200 after {starts[-1]['first_200_s']:.2f} s")
    phases = starts[0]["phases_s"]
    return {
        "what": "process start to the first 200 on /v1/match",
        "first_200_s": figure([each["first_200_s"] for each in starts]),
        "phases_s": {name: figure([each["phases_s"][name] for each in starts]) for name in phases},
        "rss_mb": figure([each["rss_mb"] for each in starts]),
        "processes": starts[0]["processes"],
        "processes_with_torch": sum(each["processes_with_torch"] for each in starts),
    }


def start(contestant: Contestant, pair: Pair, log: Path) -> Result:
    """One start, ended again. Raises StepFailed when no match is answered in time."""
    port = free_port()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        environ = {**os.environ, **contestant.environ}
        begun = time.time()
        process = subprocess.Popen(contestant.command(port), stdout=file, stderr=subprocess.STDOUT, env=environ)
    try:
        parent = psutil.Process(process.pid)
        worker = _until(lambda: _worker(parent), process, log)
        body = json.dumps(contestant.body(pair))
        _until(lambda: _answers(port, contestant.path, body), process, log)
        first_200_s = time.time() - begun
        family = [parent, *parent.children(recursive=True)]
        return {
            "first_200_s": first_200_s,
            # Of two processes: psutil's clock may be off by a second from ours, and is the same for both.
            "phases_s": phases(
                log.read_text(errors="replace"), worker.create_time() - parent.create_time(), first_200_s
            ),
            "rss_mb": sum(each.memory_info().rss for each in family) / 2**20,
            "processes": len(family),
            "processes_with_torch": len(mapped(family, TORCH)),
        }
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()


def phases(log: str, parent_s: float, first_200_s: float) -> dict[str, float]:
    """Where the time went, in its order; the rest is the worker's HTTP server and the first request."""
    imports, loaded = IMPORTS.search(log), LOADED.search(log)
    if imports is None or loaded is None:
        raise StepFailed("The server's log tells no start-up times.")
    told = {
        "parent: interpreter, imports, check of the model": parent_s,
        "worker: interpreter and imports": float(imports[1]),
        "worker: check and load the model": float(loaded[1]),
        "worker: warm-up": float(loaded[2]),
    }
    return {**told, "worker: HTTP up, first answer": first_200_s - sum(told.values())}


def _until(look: Callable[[], T | None], process: subprocess.Popen[bytes], log: Path) -> T:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        if (found := look()) is not None:
            return found
        time.sleep(POLL_S)
    raise StepFailed(f"The server did not come up; see {log}.")


def _worker(parent: psutil.Process) -> psutil.Process | None:
    for child in parent.children():
        if any(WORKER in part for part in child.cmdline()):
            return child
    return None


def _answers(port: int, path: str, body: str) -> bool | None:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        return connection.getresponse().status == 200 or None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
