"""Reading a server: its Prometheus counters, its memory, and what its processes have mapped."""

from __future__ import annotations

import threading
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from benchmarks.arena import Running
from benchmarks.contestants import HOST
from demo.commands import StepFailed


def counter(running: Running, name: str) -> float:
    """The sum of a counter over its labels. Raises StepFailed where the server has no such counter."""
    with urllib.request.urlopen(f"http://{HOST}:{running.port}/metrics", timeout=10) as reply:
        return total(reply.read().decode(), name)


def total(text: str, name: str) -> float:
    """The sum of all samples of a metric. Raises StepFailed where there is none."""
    lines = [line for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
    if not lines:
        raise StepFailed(f"/metrics has no {name}.")
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def mapped(processes: list[psutil.Process], library: str) -> list[int]:
    """The processes that have mapped a file with this in its name."""
    return [each.pid for each in processes if library in Path(f"/proc/{each.pid}/maps").read_text()]


class Memory:
    """Resident memory of a server and its workers, in MiB, once a second while inside."""

    def __init__(self, running: Running) -> None:
        self.samples_mb: list[float] = []
        self._running = running
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        processes = self._running.family()
        while not self._over.is_set():
            self.samples_mb.append(sum(each.memory_info().rss for each in processes) / 2**20)
            self._over.wait(1.0)


def quarters(samples: list[float]) -> tuple[float, float]:
    """The medians of the second and of the last quarter: the first is the warm-up."""
    size = max(1, len(samples) // 4)
    second, last = samples[size : 2 * size] or samples, samples[-size:]
    return sorted(second)[len(second) // 2], sorted(last)[len(last) // 2]
