"""Servers side by side, one of them running at a time: the others are stopped (SIGSTOP) and burn no CPU meanwhile."""

from __future__ import annotations

import http.client
import json
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from benchmarks.contestants import HOST, Contestant
from demo.commands import StepFailed, free_port, server
from runtime.contract import Pair

LOGS = Path("reports/bench")
START_TIMEOUT_S = 180
# Scores may differ by rounding alone: every contestant is compared with its own artifact, or one of equal precision.
PARITY = 1e-3


@dataclass(frozen=True, slots=True)
class Running:
    """A server that was started. `pid`: of its parent process."""

    contestant: Contestant
    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}{self.contestant.path}"

    def family(self) -> list[psutil.Process]:
        """The parent process and all that it has started."""
        parent = psutil.Process(self.pid)
        return [parent, *parent.children(recursive=True)]

    def post(self, pairs: Sequence[Pair]) -> list[Any]:
        """The answers to single-pair requests, one after the other. Raises StepFailed on one that is no 200."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=30)
        answers = []
        try:
            for pair in pairs:
                body = json.dumps(self.contestant.body(pair))
                connection.request("POST", self.contestant.path, body, {"Content-Type": "application/json"})
                reply = connection.getresponse()
                content = reply.read()
                if reply.status != 200:
                    raise StepFailed(f"{self.contestant.name} answered {reply.status}: {content[:200]!r}")
                answers.append(json.loads(content))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise StepFailed(f"{self.contestant.name} did not answer: {error!r}") from None
        finally:
            connection.close()
        return answers

    def largest_difference(self, pairs: Sequence[Pair], expected: Sequence[float]) -> float:
        """Its scores against `expected`. Raises StepFailed when they are not the same: another model is no peer."""
        got = [self.contestant.score(answer) for answer in self.post(pairs)]
        differences = [abs(a - b) for a, b in zip(got, expected, strict=True)]
        if max(differences) > PARITY:
            raise StepFailed(
                f"{self.contestant.name} scores otherwise: |Δ| is {statistics.mean(differences):.4f} in the mean and "
                f"{max(differences):.4f} at most, over {len(got)} pairs; allowed is {PARITY}."
            )
        return max(differences)


class Arena:
    """Starts servers, lets one run at a time, ends them all. A context manager."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def start(self, contestant: Contestant) -> Running:
        """Start a server, wait until it is ready, and stop it until it is driven. Raises StepFailed."""
        port = free_port()
        log = LOGS / f"{contestant.name.replace(' ', '-')}.log"
        running = server(
            contestant.command(port),
            f"http://{HOST}:{port}{contestant.ready}",
            log,
            environ=contestant.environ,
            timeout_s=START_TIMEOUT_S,
        )
        started = Running(contestant, port, self._stack.enter_context(running))
        self._stack.callback(_resume, started)  # before it is asked to end
        _suspend(started)
        return started

    @contextmanager
    def driving(self, running: Running, warm: Sequence[Pair]) -> Iterator[Running]:
        """Let one server run, answer `warm` first, and stop it again at the end. Raises StepFailed if it is gone."""
        _resume(running)
        try:
            running.post(warm)
            yield running
        finally:
            _suspend(running)


def _suspend(running: Running) -> None:
    """Parents first: none of them sees a child that does not answer."""
    for process in _alive(running):
        process.suspend()


def _resume(running: Running) -> None:
    for process in reversed(_alive(running)):
        process.resume()


def _alive(running: Running) -> list[psutil.Process]:
    try:
        return running.family()
    except psutil.NoSuchProcess:
        return []
