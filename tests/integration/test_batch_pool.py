"""Worker processes that die: before they are ready, and with a shard in hand."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from batch.errors import JobFailed, WorkerLost
from batch.job import Job
from batch.plan import plan_model
from batch.pool import Pool, Task
from batch.reading import Item, Shard
from runtime.backends.fake import write_fake_artifact
from runtime.manifest import read_manifest

pytestmark = pytest.mark.integration


def task_of(folder: Path, *, latency_s: float = 0.0) -> Task:
    write_fake_artifact(folder / "m", "matching", latency_s=latency_s)
    job = Job(input=str(folder / "in"), output=str(folder / "out"), model=str(folder / "m"))
    return Task(job, plan_model(job, "m:1", read_manifest(folder / "m")), folder / "m")


def shards_of(count: int) -> list[Shard]:
    rows = [(Item(f"r{line}", line, ("a", "b")),) for line in range(11, 11 + count)]
    return [Shard(f"part-00000-{place:05d}", "in/x.csv", "x.csv", row) for place, row in enumerate(rows)]


def kill_whenever(pool: Pool, doomed: Callable[[object], bool], ended: threading.Event) -> threading.Thread:
    """Kills each worker of whom `doomed` says so."""

    def watch() -> None:
        while not ended.wait(0.01):
            for worker in list(pool._workers):
                if doomed(worker) and worker.process.pid and worker.process.is_alive():
                    os.kill(worker.process.pid, signal.SIGKILL)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def run_with_killer(pool: Pool, shards: list[Shard], doomed: Callable[[object], bool]) -> list[str]:
    ended = threading.Event()
    thread = kill_whenever(pool, doomed, ended)
    try:
        return [shard.name for shard in pool.run(shards)]
    finally:
        ended.set()
        thread.join()


def test_a_shard_that_kills_every_worker_is_named_and_no_other(tmp_path: Path) -> None:
    pool = Pool(task_of(tmp_path, latency_s=0.3), 2)

    def doomed(worker: object) -> bool:
        shard = getattr(worker, "shard", None)
        return shard is not None and shard.name == "part-00000-00001"

    with pytest.raises(WorkerLost) as caught:
        run_with_killer(pool, shards_of(40), doomed)
    assert (
        "shard part-00000-00001 (in/x.csv, lines 12 to 12): its worker process was killed by SIGKILL, 3 times"
        in str(caught.value)
    )
    assert all(not worker.process.is_alive() for worker in pool._workers)
    assert not (tmp_path / "out/part-00000-00001.jsonl").exists()
    assert (tmp_path / "out/part-00000-00000.jsonl").exists()


def test_workers_that_die_while_they_load_end_the_job(tmp_path: Path) -> None:
    pool = Pool(task_of(tmp_path), 1)
    with pytest.raises(WorkerLost, match=r"was killed by SIGKILL while it loaded the model, 3 times"):
        run_with_killer(pool, shards_of(2), lambda worker: not getattr(worker, "ready", True))


def test_every_shard_is_done_once_and_no_more_workers_than_shards(tmp_path: Path) -> None:
    pool = Pool(task_of(tmp_path), 8)
    done = []
    for shard in pool.run(shards_of(3)):
        done.append(shard.name)
        assert len(pool._workers) <= 3
    assert sorted(done) == [shard.name for shard in shards_of(3)]


def test_what_a_worker_cannot_do_is_said_in_its_words(tmp_path: Path) -> None:
    task = task_of(tmp_path)
    (tmp_path / "out").write_text("a file where the output should be")
    with pytest.raises(JobFailed, match=r"shard part-00000-00000: .*a file stands where a folder is needed"):
        list(Pool(task, 1).run(shards_of(1)))
    (tmp_path / "m/fake.json").write_text("{}")
    with pytest.raises(JobFailed, match=r"altered: fake\.json"):
        list(Pool(task, 1).run(shards_of(1)))
