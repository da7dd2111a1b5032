"""The commit protocol through whole jobs: killed anywhere, raced, and on a store that does not keep its promise."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.batch_job import (
    contents,
    is_running,
    make_store,
    pairs,
    run,
    start,
    worker_of,
    write_job,
)
from tests.integration.s3_server import Forgetful, fresh_buckets, moto_server, relay

pytestmark = pytest.mark.integration
ROWS = 120


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture
def s3(endpoint: str) -> Any:
    """A client, and an empty pair of buckets."""
    return fresh_buckets(endpoint, "data-in", "data-out")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_store(tmp_path / "home")


def test_killed_anywhere_and_started_again_gives_what_one_clean_run_gives(
    home: Path, tmp_path: Path, s3: Any, endpoint: str
) -> None:
    data = pairs(ROWS) + b"not json\n" + pairs(20)
    s3.put_object(Bucket="data-in", Key="pairs/a.jsonl", Body=data)
    job = write_job(
        tmp_path, input="s3://data-in/pairs/", output="s3://data-out/clean", model="slow", shard_rows=7, workers=2
    )
    code, _, log = run(home, job, endpoint=endpoint)
    assert code == 0, log
    expected = contents(s3, "clean/")
    assert sum(b"not JSON" in body for key, body in expected.items() if key.startswith("_errors/")) == 1
    chance = random.Random(5)
    for attempt in range(3):
        output = f"output=s3://data-out/killed{attempt}"
        for _ in range(2):
            process = start(home, job, output, endpoint=endpoint)
            # Somewhere between "nothing committed" and "nearly done", by what is there, not by the clock.
            wanted = chance.randint(0, 12)
            while process.poll() is None:
                found = s3.list_objects_v2(Bucket="data-out", Prefix=f"killed{attempt}/").get("KeyCount", 0)
                if found >= wanted:
                    break
                time.sleep(0.005)
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        code, _, log = run(home, job, output, endpoint=endpoint)
        assert code == 0, log
        assert contents(s3, f"killed{attempt}/") == expected


def commits_once(client: Any, home: Path, job: Path, endpoint: str) -> None:
    """The protocol's promise: however many write, each object is written once. Fails on a store that lets them."""
    client.put_bucket_versioning(Bucket="data-out", VersioningConfiguration={"Status": "Enabled"})
    both = [start(home, job, endpoint=endpoint) for _ in range(2)]
    for process in both:
        log = process.communicate(timeout=120)[1]
        assert process.returncode == 0, log
    versions = [item["Key"] for item in client.list_object_versions(Bucket="data-out")["Versions"]]
    assert sorted(versions) == sorted(set(versions)), "an object was written twice"


@pytest.fixture
def raced(tmp_path: Path, s3: Any) -> Path:
    """A job that takes a second or two, so that two runs of it meet at most of its shards."""
    s3.put_object(Bucket="data-in", Key="pairs/a.jsonl", Body=pairs(ROWS))
    return write_job(
        tmp_path, input="s3://data-in/pairs/", output="s3://data-out/run", model="slow", shard_rows=5, workers=2
    )


def test_two_jobs_at_once_commit_each_shard_once(home: Path, raced: Path, s3: Any, endpoint: str) -> None:
    commits_once(s3, home, raced, endpoint)


class ForgetfulOfShards(Forgetful):
    """A store that keeps the condition while it is watched, and forgets it for the shards."""

    def drops(self, header: str) -> bool:
        return super().drops(header) and "/part-" in self.path


def test_that_fails_on_a_store_that_ignores_the_condition(home: Path, raced: Path, s3: Any, endpoint: str) -> None:
    with relay(ForgetfulOfShards, endpoint) as url, pytest.raises(AssertionError, match="written twice"):
        commits_once(s3, home, raced, url)


def test_a_store_that_ignores_the_condition_is_found_out(home: Path, raced: Path, s3: Any, endpoint: str) -> None:
    with relay(Forgetful, endpoint) as url:
        for _ in range(2):
            code, _, log = run(home, raced, endpoint=url)
            assert code == 2
            assert "ignores `If-None-Match: *`" in log
    assert sorted(contents(s3)) == ["run/_PLAN.json"]


def wait_for_shard(process: Any, output: Path) -> None:
    while not list(output.glob("part-*")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


@pytest.fixture
def slow_job(tmp_path: Path) -> Path:
    (tmp_path / "x.jsonl").write_bytes(pairs(60))
    return write_job(
        tmp_path, input=str(tmp_path / "x.jsonl"), output=str(tmp_path / "out"), model="slow", shard_rows=2, workers=1
    )


def test_a_worker_that_dies_costs_one_try(home: Path, tmp_path: Path, slow_job: Path) -> None:
    process = start(home, slow_job)
    wait_for_shard(process, tmp_path / "out")
    os.kill(worker_of(process.pid) or 0, signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert '"rows_out": 60' in out


def test_a_killed_parent_leaves_no_worker_behind(home: Path, tmp_path: Path, slow_job: Path) -> None:
    process = start(home, slow_job)
    wait_for_shard(process, tmp_path / "out")
    worker = worker_of(process.pid)
    assert worker is not None
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while is_running(worker):
        assert time.monotonic() < deadline, "the worker goes on without its parent"
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_job_that_is_told_to_stop_leaves_quietly_and_goes_on_later(
    home: Path, tmp_path: Path, slow_job: Path, number: int, code: int
) -> None:
    process = start(home, slow_job)
    wait_for_shard(process, tmp_path / "out")
    worker = worker_of(process.pid)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, log = process.communicate(timeout=30)
    assert process.returncode == code
    assert "run it again to go on" in log
    assert "Traceback" not in log
    assert worker is not None
    assert not is_running(worker)
    state, report, _ = run(home, slow_job, action="status")
    assert (state, report["finished"]) == (0, False)
    assert 0 < report["shards_committed"] < report["shards"] == 30
    code, report, log = run(home, slow_job)
    assert (code, report["rows_out"]) == (0, 60), log
    assert "were done before" in log
