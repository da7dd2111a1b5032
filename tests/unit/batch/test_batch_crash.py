"""The commit protocol, write by write: stopped before or after any of them and run again, a job ends as a clean one."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch.errors import NotReconciled
from batch.job import Job
from records import disk
from runtime.backends.fake import write_fake_artifact
from tests.unit.batch.local_job import pairs, run_here, tree

pytestmark = pytest.mark.unit
# Two files, seven rows a shard: three shards with errors, one with none, plan twice, success.
WRITES = 2 + 3 + 4 + 1


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Path, dict[str, bytes]]]:
    """(folder with input and model, what a clean run leaves)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        (folder / "in/a.jsonl").write_text(pairs(16))
        (folder / "in/b.jsonl").write_text(pairs(8))
        write_fake_artifact(folder / "model", "matching")
        run_here(job_of(folder, "clean"))
        yield folder, tree(folder / "clean")


def job_of(folder: Path, output: str) -> Job:
    return Job(
        input=str(folder / "in"), output=str(folder / output), model=str(folder / "model"), shard_rows=7,
        max_error_share=0.5,
    )  # fmt: skip


def run_until(job: Job, write: int, *, after: bool) -> bool:
    """Run, and stop before or after the given write. Returns whether it came to its end first."""
    real = disk.put_if_absent
    left = write

    def put(path: Path, data: bytes) -> bool:
        nonlocal left
        left -= 1
        if left < 0 and not after:
            raise Killed
        wrote = real(path, data)
        if left < 0:
            raise Killed
        return wrote

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "put_if_absent", put)
        try:
            run_here(job)
        except Killed:
            return False
    return True


def test_the_clean_run_makes_the_writes_that_are_counted_on(world: tuple[Path, dict[str, bytes]]) -> None:
    _, clean = world
    assert sorted(clean) == [
        "_PLAN.json", "_SUCCESS", "_errors/part-00000-00000.jsonl", "_errors/part-00000-00001.jsonl",
        "_errors/part-00001-00000.jsonl", "part-00000-00000.jsonl", "part-00000-00001.jsonl", "part-00000-00002.jsonl",
        "part-00001-00000.jsonl", "part-00001-00001.jsonl",
    ]  # fmt: skip


@given(kills=st.lists(st.tuples(st.integers(0, WRITES), st.booleans()), min_size=1, max_size=4))
@settings(max_examples=60)
def test_killed_at_any_writes_the_output_is_that_of_a_clean_run(
    world: tuple[Path, dict[str, bytes]], kills: list[tuple[int, bool]]
) -> None:
    folder, clean = world
    with tempfile.TemporaryDirectory(dir=folder) as name:
        job = job_of(folder, f"{Path(name).name}/out")
        for write, after in kills:
            run_until(job, write, after=after)
        run_here(job)
        assert tree(Path(job.output)) == clean


def test_a_shard_is_never_there_before_its_errors(world: tuple[Path, dict[str, bytes]]) -> None:
    folder, clean = world
    for write in range(WRITES + 1):
        job = job_of(folder, f"ordered{write}")
        run_until(job, write, after=True)
        there = tree(Path(job.output))
        for shard in (name for name in there if name.startswith("part-")):
            errors = f"_errors/{shard}"
            assert (errors in there) == (errors in clean)


def test_runs_at_the_same_time_end_alike(world: tuple[Path, dict[str, bytes]]) -> None:
    folder, clean = world
    job = job_of(folder, "raced")
    reports = []
    threads = [threading.Thread(target=lambda: reports.append(run_here(job))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tree(Path(job.output)) == clean
    assert len(reports) == 4
    assert all(report == reports[0] for report in reports)


def remove_a_line(output: Path) -> None:
    path = output / "part-00000-00001.jsonl"
    path.write_bytes(path.read_bytes().split(b"\n", 1)[1])


def cut_off(output: Path) -> None:
    path = output / "part-00000-00001.jsonl"
    path.write_bytes(path.read_bytes()[:-5])


def remove_errors(output: Path) -> None:
    (output / "_errors/part-00000-00001.jsonl").unlink()


def add_a_shard(output: Path) -> None:
    (output / "part-00007-00000.jsonl").write_bytes(b"{}\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_a_line, "holds 5 predictions and 1 bad rows for 7 rows"),
        (cut_off, "its last line is cut off"),
        (remove_errors, "holds 6 predictions and 0 bad rows for 7 rows"),
        (add_a_shard, "part-00007-00000.jsonl, which is none of this job's shards"),
    ],
)
def test_what_was_tampered_with_is_not_called_a_success(
    world: tuple[Path, dict[str, bytes]], damage: object, message: str
) -> None:
    folder, _ = world
    job = job_of(folder, f"damaged-{damage.__name__}")  # type: ignore[attr-defined]
    assert not run_until(job, WRITES - 1, after=False)  # all but _SUCCESS
    damage(Path(job.output))  # type: ignore[operator]
    with pytest.raises(NotReconciled, match=message):
        run_here(job)
    assert not (Path(job.output) / "_SUCCESS").exists()


def test_input_that_changes_under_a_run_is_not_called_a_success(
    world: tuple[Path, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = world
    (folder / "live").mkdir()
    (folder / "live/a.jsonl").write_text(pairs(16))
    job = job_of(folder, "live-out").model_copy(update={"input": str(folder / "live")})
    real = disk.put_if_absent

    def put(path: Path, data: bytes) -> bool:
        if path.name == "part-00000-00001.jsonl":
            (folder / "live/b.jsonl").write_text(pairs(1))
        return real(path, data)

    monkeypatch.setattr(disk, "put_if_absent", put)
    with pytest.raises(NotReconciled, match="changed while the job ran"):
        run_here(job)
