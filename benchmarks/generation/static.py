"""Static batching, the baseline: up to eight requests in the order of their arrival, decoded together until the longest
has ended; whoever comes meanwhile waits for all of them.

It streams, so a request has its first token after its prefill and its last one at its own length, and it runs around
the very graph that is served, in process: neither HTTP nor a second process is charged to it.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from benchmarks.generation.timings import Timing
from runtime.contract import GenerationBackend


@dataclass(frozen=True, slots=True)
class Job:
    """One request of a client, due `after_s` after the one before has ended."""

    prompt: tuple[int, ...]
    tokens: int
    after_s: float


class Machine(Protocol):
    """What the batcher runs on, and its clock, in seconds from the beginning."""

    def now_s(self) -> float: ...

    def sleep_until(self, moment_s: float) -> None: ...

    def prefill(self, row: int, prompt: tuple[int, ...]) -> None: ...

    def decode(self) -> None:
        """One more token for each row prefilled since the last `clear`."""
        ...

    def clear(self) -> None: ...


def play(clients: Sequence[Sequence[Job]], machine: Machine, rows: int, seconds: float) -> list[Timing]:
    """Every client's jobs in their order; no batch begins after `seconds`. Returns what was answered or begun."""
    due = [(client[0].after_s, number, 0) for number, client in enumerate(clients) if client]
    heapq.heapify(due)
    answered: list[Timing] = []
    while due and due[0][0] < seconds and machine.now_s() < seconds:
        machine.sleep_until(due[0][0])
        now_s = machine.now_s()
        batch = []
        while due and due[0][0] <= now_s and len(batch) < rows:
            batch.append(heapq.heappop(due))
        for timing, (_, number, place) in zip(run(batch, clients, machine), batch, strict=True):
            answered.append(timing)
            if place + 1 < len(clients[number]):
                assert timing.ended_s is not None
                after_s = clients[number][place + 1].after_s
                heapq.heappush(due, (timing.ended_s + after_s, number, place + 1))
    return answered


def run(batch: Sequence[tuple[float, int, int]], clients: Sequence[Sequence[Job]], machine: Machine) -> list[Timing]:
    """One batch to its end."""
    jobs = [clients[number][place] for _, number, place in batch]
    arrivals: list[list[float]] = []
    machine.clear()
    for row, job in enumerate(jobs):
        machine.prefill(row, job.prompt)
        arrivals.append([machine.now_s()])
    for _ in range(max(job.tokens for job in jobs) - 1):
        machine.decode()
        now_s = machine.now_s()
        for job, stamps in zip(jobs, arrivals, strict=True):
            if len(stamps) < job.tokens:
                stamps.append(now_s)
    return [
        Timing(number, due_s, 200, tuple(stamps), stamps[-1], job.tokens, finished=True)
        for (due_s, number, _), job, stamps in zip(batch, jobs, arrivals, strict=True)
    ]


class BackendMachine:
    """A generation backend in real time; tokens are the likeliest."""

    def __init__(self, backend: GenerationBackend) -> None:
        self._backend = backend
        self._begun = time.perf_counter()
        self.clear()

    def start(self) -> None:
        """The clock begins."""
        self._begun = time.perf_counter()

    def now_s(self) -> float:
        return time.perf_counter() - self._begun

    def sleep_until(self, moment_s: float) -> None:
        time.sleep(max(0.0, moment_s - self.now_s()))

    def clear(self) -> None:
        self._last: list[int] = []
        self._lengths: list[int] = []

    def prefill(self, row: int, prompt: tuple[int, ...]) -> None:
        self._last.append(int(self._backend.prefill(row, prompt)[0].argmax()))
        self._lengths.append(len(prompt))

    def decode(self) -> None:
        logits = self._backend.decode(np.asarray(self._last, np.int64), np.asarray(self._lengths, np.int64))
        self._last = logits.argmax(axis=1).tolist()
        self._lengths = [length + 1 for length in self._lengths]
