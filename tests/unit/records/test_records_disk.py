"""Files on disk: listed in order, read, and written once and whole."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from records import storage
from records.storage import StorageError

pytestmark = pytest.mark.unit


def race(url: str, writers: int = 8) -> list[bytes]:
    """`writers` threads write different bytes to one name at once; the bytes of those who were told that they won."""
    start = threading.Barrier(writers)
    winners = []

    def write(number: int) -> None:
        data = bytes([number]) * 100_000
        start.wait()
        if storage.put_if_absent(url, data):
            winners.append(data)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return winners


@pytest.fixture(params=["unnamed", "named"])
def files(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to publish: with Linux's files without a name, and as elsewhere."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    return str(request.param)


@pytest.mark.usefixtures("files")
def test_of_many_writers_one_wins_and_nothing_else_is_left(tmp_path: Path) -> None:
    for attempt in range(5):
        url = str(tmp_path / f"deep/{attempt}/x")
        winners = race(url)
        assert len(winners) == 1
        assert storage.read_bytes(url) == winners[0]
        assert os.listdir(tmp_path / f"deep/{attempt}") == ["x"]


@pytest.mark.usefixtures("files")
def test_what_is_written_has_the_usual_rights(tmp_path: Path) -> None:
    storage.put_if_absent(str(tmp_path / "x"), b"1")
    (tmp_path / "y").write_bytes(b"1")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "y").stat().st_mode


def write_for_ever(folder: str) -> None:
    number = 0
    while True:
        storage.put_if_absent(f"{folder}/{number}", b"x" * 1_000_000)
        number += 1


def test_a_killed_writer_leaves_whole_files_only(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=write_for_ever, args=(str(tmp_path),))
    process.start()
    while len(os.listdir(tmp_path)) < 5:
        assert process.is_alive()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert {file.stat().st_size for file in tmp_path.iterdir()} == {1_000_000}
    assert all(not file.name.startswith(".") for file in tmp_path.iterdir())


def test_a_listing_is_sorted_follows_links_and_leaves_hidden_names_out(tmp_path: Path) -> None:
    for name in ("b", "a/z", "a/_tmp/x", ".hidden/x", "_SUCCESS", "elsewhere/far/y"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"123")
    (tmp_path / "in/elsewhere").rename(tmp_path / "elsewhere")
    (tmp_path / "in/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "in")
    found = storage.list_objects(str(tmp_path / "in"))
    assert [entry.url.removeprefix(f"{tmp_path}/in/") for entry in found] == ["a/z", "b", "link/far/y"]
    assert {entry.size_bytes for entry in found} == {3}


def test_a_version_changes_with_the_content(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1")
    (before,) = storage.list_objects(str(tmp_path))
    assert storage.list_objects(str(tmp_path / "x")) == [before]
    os.utime(tmp_path / "x", (1, 1))
    assert storage.list_objects(str(tmp_path)) != [before]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nowhere", "nowhere: no such file or folder"),
        ("gs://bucket/x", r"gs:// is not known; write a path or s3://BUCKET/KEY"),
        ("s3://", "names no bucket"),
    ],
)
def test_what_cannot_be_listed_is_named(url: str, message: str) -> None:
    with pytest.raises(StorageError, match=message):
        storage.list_objects(url)


def test_what_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nowhere: No such file"):
        storage.read_bytes(str(tmp_path / "nowhere"))
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(StorageError, match="a file stands where a folder is needed"):
        storage.put_if_absent(str(tmp_path / "file/x"), b"1")
    with pytest.raises(StorageError, match="Is a directory"):
        storage.read_bytes(str(tmp_path))
    (tmp_path / os.fsdecode(b"\xff")).write_bytes(b"1")
    with pytest.raises(StorageError, match="the name is not UTF-8"):
        storage.list_objects(str(tmp_path))


def test_work_on_files_imports_no_boto3() -> None:
    code = "import sys; from records import rows; sys.exit('boto3' in sys.modules)"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0
