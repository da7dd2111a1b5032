"""Worker processes, each with the engine loaded once. A worker that dies costs its shard another try, not the job.

A pool of its own and not `concurrent.futures`: there, one death fails whatever any worker holds, and nobody can tell
which shard was the killer.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from batch.commit import commit_shard
from batch.errors import JobFailed, WorkerLost
from batch.job import Job
from batch.plan import PlannedModel
from batch.reading import Shard
from batch.scoring import Scorer
from records.storage import StorageError
from runtime.errors import SluiceError

RETRIES = 2
STOP_S = 5.0
_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker needs to know before its first shard."""

    job: Job
    model: PlannedModel
    directory: Path


@dataclass(frozen=True, slots=True)
class _Failure:
    """A worker's last word."""

    message: str


def work_on(task: Task, shard: Shard, scorer: Scorer) -> bool:
    """Score and commit one shard: the unit of work, wherever it runs. Returns whether this call made the commit."""
    return commit_shard(task.job, task.model.kind, shard, scorer.score(shard))


# ---------------------------------------------------------------- in the worker


def _serve(connection: Connection, task: Task, parent: int) -> None:
    # A killed parent cannot tell its workers; they look whether it is still there, so that none scores for nobody.
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with suppress(EOFError, BrokenPipeError):
        try:
            scorer = Scorer(task.job, task.model, task.directory)
            connection.send(None)
            while True:
                connection.send(work_on(task, connection.recv(), scorer))
        except (SluiceError, StorageError) as error:
            connection.send(_Failure(str(error)))
        except (EOFError, BrokenPipeError):
            raise
        except Exception:
            # The parent must hear of it: without an answer it would wait for this worker for ever.
            connection.send(_Failure(f"this is a fault of the program:\n{traceback.format_exc()}"))


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


# ---------------------------------------------------------------- in the parent


class _Worker:
    """One process, the pipe to it, and the shard that it holds."""

    def __init__(self, task: Task) -> None:
        self.connection, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_serve, args=(theirs, task, os.getpid()), daemon=True)
        # Blocked here, hence in the child from its first instruction: Ctrl-C reaches the whole group, and the parent
        # decides what becomes of its workers.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        theirs.close()  # ours is a copy: the pipe must end with the worker
        self.ready = False
        self.shard: Shard | None = None

    def give(self, shard: Shard) -> None:
        self.shard = shard
        with suppress(BrokenPipeError):  # it died; the wait will tell
            self.connection.send(shard)

    def hear(self) -> Any:
        """What it sent. Raises EOFError when it died."""
        try:
            return self.connection.recv()
        except OSError:  # it broke off in the middle of a word
            raise EOFError from None

    def stop(self) -> None:
        self.connection.close()
        self.process.terminate()  # at any place: what it commits is whole or not there
        self.process.join(STOP_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class Pool:
    """Scores and commits shards on `count` processes."""

    def __init__(self, task: Task, count: int) -> None:
        self._task = task
        self._count = count
        self._workers: list[_Worker] = []
        self._deaths: Counter[str] = Counter()
        self._early_deaths = 0
        self._waiting: deque[Shard] = deque()  # read ahead, or taken from the dead

    def run(self, shards: Iterable[Shard]) -> Iterator[Shard]:
        """Yields each shard when it is committed. Reads `shards` only as fast as they are worked off.

        Raises WorkerLost; JobFailed with what scoring or storage said.
        """
        source = iter(shards)
        try:
            # One shard first: where all is done already, no worker is started.
            while self._fill(source) or self._busy():
                while len(self._workers) < min(self._count, self._busy() + len(self._waiting)):
                    self._workers.append(_Worker(self._task))
                self._hand_out()
                self._fill(source)
                yield from self._collect()
        finally:
            for worker in self._workers:
                worker.stop()

    def _busy(self) -> int:
        return sum(worker.shard is not None for worker in self._workers)

    def _fill(self, source: Iterator[Shard]) -> bool:
        """Read ahead a shard a worker; returns whether any waits."""
        while len(self._waiting) < self._count and (shard := next(source, None)) is not None:
            self._waiting.append(shard)
        return bool(self._waiting)

    def _hand_out(self) -> None:
        for worker in self._workers:
            if worker.ready and worker.shard is None and self._waiting:
                worker.give(self._waiting.popleft())

    def _collect(self) -> Iterator[Shard]:
        ready = wait([worker.connection for worker in self._workers])
        for worker in [each for each in self._workers if each.connection in ready]:
            try:
                word = worker.hear()
            except EOFError:
                self._bury(worker)
                continue
            if isinstance(word, _Failure):
                raise JobFailed(f"shard {worker.shard.name}: {word.message}" if worker.shard else word.message)
            done, worker.shard, worker.ready = worker.shard, None, True
            if done:
                yield done

    def _bury(self, worker: _Worker) -> None:
        worker.process.join(STOP_S)
        worker.stop()
        self._workers.remove(worker)
        ending = _ending(worker.process.exitcode)
        shard = worker.shard
        if worker.ready and shard is None:
            return
        if shard is None:
            self._early_deaths += 1
            if self._early_deaths > RETRIES:
                raise WorkerLost(
                    f"a worker process {ending} while it loaded the model, {self._early_deaths} times. {_ADVICE}"
                )
            return
        self._deaths[shard.name] += 1
        if self._deaths[shard.name] > RETRIES:
            first, last = shard.rows[0].line, shard.rows[-1].line
            raise WorkerLost(
                f"shard {shard.name} ({shard.file}, lines {first} to {last}): its worker process {ending}, "
                f"{self._deaths[shard.name]} times. {_ADVICE}"
            )
        self._waiting.appendleft(shard)


_ADVICE = (
    "If memory is short (the kernel's log says so), lower workers, or shard_rows in another output. "
    "Run the job again to go on; committed shards are kept."
)


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with {code}"
