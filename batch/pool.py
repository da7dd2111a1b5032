"""Worker processes, each with the engine loaded once; a worker that dies costs its shards one more try, not the job."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from batch.commit import commit_shard
from batch.job import Job
from batch.plan import Shard
from batch.scoring import Scorer, columns_of

TRIES = 3
# Shards handed out ahead of each worker, so that none waits for the reader.
AHEAD = 2


class WorkerLost(Exception):
    """A shard killed its worker on every try."""


class _Worker:
    """What one process holds: set once by `_start`, used by every shard that lands there."""

    scorer: Scorer
    job: Job
    columns: dict[str, str]


def _start(job: Job, directory: Path, kind: str, threads: int, parent: int) -> None:
    # A killed parent cannot tell its workers; they look whether it is still there, so that none scores for nobody.
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _Worker.job = job
    _Worker.columns = columns_of(kind)
    _Worker.scorer = Scorer(job, directory, threads)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _work(shard: Shard) -> bool:
    scored = _Worker.scorer.score(shard.rows)
    return commit_shard(_Worker.job.output, shard, scored, _Worker.job.format, _Worker.columns)


def score_all(shards: Iterable[Shard], job: Job, directory: Path, kind: str) -> Iterator[Shard]:
    """Score and commit every shard; yields each when it is committed. Reads `shards` only as fast as it is worked off.

    Raises WorkerLost, and whatever scoring or storage raises.
    """
    cores = len(os.sched_getaffinity(0))
    # One generation engine batches its streams over all cores by itself; copies of it would only share the cores out.
    workers = job.workers or (cores if kind == "matching" else 1)
    waiting = iter(shards)
    tries: dict[str, int] = {}
    retry: list[Shard] = []
    exhausted = False
    while not exhausted or retry:
        pool = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=(job, directory, kind, max(1, cores // workers), os.getpid()),
        )
        running: dict[Future[bool], Shard] = {}
        try:
            while True:
                while len(running) < workers * AHEAD:
                    shard = retry.pop() if retry else next(waiting, None)
                    if shard is None:
                        exhausted = True
                        break
                    retry.append(shard)  # a pool that breaks just now must not lose it
                    running[pool.submit(_work, shard)] = retry.pop()
                if not running:
                    break
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                    yield running.pop(future)
        except BrokenProcessPool:
            for shard in running.values():
                tries[shard.name] = tries.get(shard.name, 0) + 1
                if tries[shard.name] >= TRIES:
                    raise WorkerLost(
                        f"shard {shard.name} was in work {TRIES} times when a worker process died (out of memory?). "
                        "Lower shard_rows or workers and run the job again; committed shards are kept."
                    ) from None
                retry.append(shard)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
