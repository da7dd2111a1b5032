"""Processes that train trials for the one that searches. One that dies takes its trial with it and nothing else."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from training.recipe import Recipe

LOG_FILE = "log.txt"  # what a trial would have printed, in its run folder


@dataclass(frozen=True, slots=True)
class Validation:
    """A figure of a running trial. The worker waits to hear whether it goes on."""

    step: int  # validations so far
    value: float


@dataclass(frozen=True, slots=True)
class Ended:
    """A trial's end. `value`: its best figure when it was trained to the end; `reason`: why it could not be."""

    status: str  # finished | pruned | failed | killed
    value: float | None = None
    reason: str | None = None


@dataclass(slots=True)
class Worker:
    """A process and the line to it. `trial`: what it trains, None while it is free."""

    process: BaseProcess
    line: Connection
    trial: Any = None


@dataclass(slots=True)
class Workers:
    """`count` processes at most, started when they are needed. `recipe`: whose data the trials share."""

    recipe: Recipe
    figure: tuple[str, bool]
    count: int
    _all: list[Worker] = field(default_factory=list)

    @property
    def has_room(self) -> bool:
        """Whether another trial can be started."""
        return sum(worker.trial is not None for worker in self._all) < self.count

    @property
    def running(self) -> Sequence[Any]:
        """The trials in training."""
        return [worker.trial for worker in self._all if worker.trial is not None]

    def start(self, trial: Any, recipe: Recipe) -> None:
        """Train `recipe` as `trial`, which is handed back with all that it reports."""
        worker = next((each for each in self._all if each.trial is None), None) or self._spawn()
        worker.trial = trial
        with contextlib.suppress(BrokenPipeError):  # then `events` finds it dead
            worker.line.send(recipe)

    def events(self, timeout_s: float) -> Iterator[tuple[Worker, Validation | Ended]]:
        """What has come in from workers, waiting at most `timeout_s` for the first."""
        lines: dict[Any, Worker] = {worker.line: worker for worker in self._all}
        for line in wait(list(lines), timeout_s):
            worker = lines[line]
            try:
                event = worker.line.recv()
            except (EOFError, OSError):
                worker.process.join()
                event = Ended("killed")
            if worker.trial is None:  # it died while it was idle
                self.free(worker)
            else:
                yield worker, event

    def answer(self, worker: Worker, go_on: bool) -> None:
        """Answer a Validation."""
        with contextlib.suppress(BrokenPipeError):
            worker.line.send(go_on)

    def free(self, worker: Worker) -> None:
        """The worker's trial is dealt with. A dead worker is taken out."""
        worker.trial = None
        if not worker.process.is_alive():
            self._all.remove(worker)

    def close(self) -> None:
        """End all processes, in the middle of a trial too."""
        for worker in self._all:
            worker.process.terminate()
        for worker in self._all:
            worker.process.join()
        self._all.clear()

    def _spawn(self) -> Worker:
        context = multiprocessing.get_context("spawn")  # a fork would share torch's threads and random states
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self.recipe, self.figure), daemon=True)
        process.start()
        theirs.close()  # so that the line ends when the process does
        self._all.append(Worker(process, ours))
        return self._all[-1]


def _work(line: Connection, recipe: Recipe, figure: tuple[str, bool]) -> None:
    """The process: trials, one after the other, until the line ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that searches
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from training.data.splits import load_splits
    from training.progress import quiet_libraries
    from training.tuning.trial import Pruned, run_trial

    quiet_libraries()
    splits = load_splits(recipe)

    def report(step: int, value: float) -> bool:
        line.send(Validation(step, value))
        return bool(line.recv())

    while True:
        try:
            trial: Recipe = line.recv()
        except EOFError:
            return
        with _printing_to(trial.run):
            try:
                ended = Ended("finished", run_trial(trial, splits, figure, report)[1])
            except Pruned:
                ended = Ended("pruned")
            except Exception as error:  # whatever a combination of settings leads to: the search goes on without it
                ended = Ended("failed", reason=f"{type(error).__name__}: {error}")
        line.send(ended)


@contextlib.contextmanager
def _printing_to(run: Path) -> Iterator[None]:
    run.mkdir(parents=True, exist_ok=True)
    with (
        (run / LOG_FILE).open("w", encoding="utf-8", buffering=1) as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        yield


def _end_with_parent() -> None:
    # A parent that is killed cannot end its children; without it their work goes nowhere.
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
