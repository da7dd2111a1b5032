"""Storage and rows in S3, against moto's server: listed, read by ranges, written once, every refusal named."""

from __future__ import annotations

import gzip
import io
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from records import s3, storage
from records.rows import BadRow, Row, read_rows
from records.storage import StorageError
from tests.integration.s3_server import Forgetful, Relay, environ_of, fresh_buckets, moto_server, relay

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty bucket `data`, where `s3://` URLs of this process lead."""
    aim(monkeypatch, endpoint)
    yield fresh_buckets(endpoint, "data")
    s3.client.cache_clear()


def aim(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    for name, value in environ_of(endpoint).items():
        monkeypatch.setenv(name, value)
    s3.client.cache_clear()


@pytest.fixture
def through(endpoint: str, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[type[Relay]], None]]:
    """Puts a relay between this process and moto."""
    with ExitStack() as stack:
        yield lambda kind: aim(monkeypatch, stack.enter_context(relay(kind, endpoint)))


# ---------------------------------------------------------------- written once


def one_writer_wins(url: str, writers: int = 8) -> None:
    """The promise that batch jobs rest on: of many writers of one name one is told that it won, and its bytes stay."""
    start = threading.Barrier(writers)
    winners = []

    def write(number: int) -> None:
        data = bytes([number]) * 10_000
        start.wait()
        if storage.put_if_absent(url, data):
            winners.append(data)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1, f"{len(winners)} of {writers} writers won"
    assert storage.read_bytes(url) == winners[0]


@pytest.mark.usefixtures("bucket")
def test_of_many_writers_one_wins() -> None:
    for attempt in range(3):
        one_writer_wins(f"s3://data/out/{attempt}")


def test_that_fails_on_a_store_that_ignores_the_condition(through: Any) -> None:
    through(Forgetful)
    with pytest.raises(AssertionError, match="8 of 8 writers won"):
        one_writer_wins("s3://data/out/x")


class Conflicting(Relay):
    """Answers 409 to the first writes, as S3 does while another conditional write is under way."""

    refusals: int

    def do_PUT(self) -> None:
        answer = self.ask() if not Conflicting.refusals else None
        if answer is None:
            Conflicting.refusals -= 1
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = b"<Error><Code>ConditionalRequestConflict</Code><Message>again</Message></Error>"
            answer = 409, {"Content-Type": "application/xml"}, body
        self.answer(*answer)


def test_a_conflict_is_tried_again(through: Any) -> None:
    through(Conflicting)
    Conflicting.refusals = 2
    assert storage.put_if_absent("s3://data/x", b"1")
    assert Conflicting.refusals == 0
    assert storage.read_bytes("s3://data/x") == b"1"
    Conflicting.refusals = 1000
    with pytest.raises(StorageError, match=r"s3://data/y: S3 answered ConditionalRequestConflict"):
        storage.put_if_absent("s3://data/y", b"1")


# ---------------------------------------------------------------- listed


def test_a_listing_means_the_folder_and_leaves_out_what_is_no_data(bucket: Any) -> None:
    for key in ("in/b", "in/a/z", "in/_SUCCESS", "in/.x", "in/_errors/y", "in/", "in/a/", "in-other/c", "int"):
        bucket.put_object(Bucket="data", Key=key, Body=b"" if key.endswith("/") else b"123")
    for url in ("s3://data/in", "s3://data/in/"):
        assert storage.list_files(url) == ["s3://data/in/a/z", "s3://data/in/b"]
    (entry,) = storage.list_objects("s3://data/in/b")
    assert (entry.url, entry.size_bytes) == ("s3://data/in/b", 3)
    assert storage.list_files("s3://data/nothing/") == []
    assert storage.list_files("s3://data") == [
        "s3://data/in-other/c",
        "s3://data/in/a/z",
        "s3://data/in/b",
        "s3://data/int",
    ]
    bucket.put_object(Bucket="data", Key="in/b", Body=b"124")
    assert storage.list_objects("s3://data/in/b") != [entry]


def test_a_listing_goes_past_one_page(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    keys = [f"in/{number:02}" for number in range(25)]
    for key in keys:
        bucket.put_object(Bucket="data", Key=key, Body=b"")
    assert len(bucket.list_objects_v2(Bucket="data")["Contents"]) == 10
    assert storage.list_files("s3://data/in") == [f"s3://data/{key}" for key in keys]


# ---------------------------------------------------------------- read


def test_large_objects_are_read_by_ranges(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "READ_AHEAD_BYTES", 1000)
    text = "".join(f'{{"n": {number}}}\n' for number in range(1000))
    bucket.put_object(Bucket="data", Key="x.jsonl", Body=text.encode())
    bucket.put_object(Bucket="data", Key="y.jsonl.gz", Body=gzip.compress(text.encode()))
    for url in ("s3://data/x.jsonl", "s3://data/y.jsonl.gz"):
        assert [row.values["n"] for row in read_rows(url) if isinstance(row, Row)] == list(range(1000))
    assert storage.read_bytes("s3://data/x.jsonl") == text.encode()


def test_every_format_comes_from_s3_in_order(bucket: Any) -> None:
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table({"a": ["p", "q"]}), buffer, row_group_size=1)
    for key, body in {
        "in/1.csv": "\ufeffa\r\né\r\n".encode(),
        "in/2.tsv": b"a\tb\nx\ty\n",
        "in/3.jsonl": b'{"a": "j"}\nnot json\n',
        "in/4.parquet": buffer.getvalue(),
        "in/5.jsonl": b"",
    }.items():
        bucket.put_object(Bucket="data", Key=key, Body=body)
    found = list(read_rows("s3://data/in/"))
    assert [row.values["a"] for row in found if isinstance(row, Row)] == ["é", "x", "j", "p", "q"]
    (bad,) = (row for row in found if isinstance(row, BadRow))
    assert (bad.file, bad.line) == ("s3://data/in/3.jsonl", 2)


def test_an_object_that_is_overwritten_while_it_is_read_is_an_error(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "READ_AHEAD_BYTES", 100)
    bucket.put_object(Bucket="data", Key="x.jsonl", Body=b'{"n": 1}\n' * 1000)
    rows = read_rows("s3://data/x.jsonl")
    next(rows)
    bucket.put_object(Bucket="data", Key="x.jsonl", Body=b'{"n": 2}\n' * 1000)
    with pytest.raises(StorageError, match=r"x\.jsonl: the object was overwritten while it was read"):
        list(rows)


class Breaking(Relay):
    """Breaks the connection off in the middle of the first bodies."""

    breaks: int

    def do_GET(self) -> None:
        status, headers, body = self.ask()
        if status == 206 and Breaking.breaks:
            Breaking.breaks -= 1
            self.answer(status, headers | {"Content-Length": str(len(body))}, body[: len(body) // 2])
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        else:
            self.answer(status, headers, body)


def test_a_connection_that_breaks_off_costs_one_range(through: Any, bucket: Any) -> None:
    body = b'{"n": 1}\n' * 10_000
    bucket.put_object(Bucket="data", Key="x.jsonl", Body=body)
    through(Breaking)
    Breaking.breaks = 2
    assert storage.read_bytes("s3://data/x.jsonl") == body
    assert Breaking.breaks == 0


# ---------------------------------------------------------------- refused


@pytest.mark.usefixtures("bucket")
def test_what_is_not_there_is_named() -> None:
    with pytest.raises(StorageError, match="s3://nowhere/x: there is no such bucket; create it"):
        storage.list_objects("s3://nowhere/x")
    with pytest.raises(StorageError, match="s3://nowhere/x: there is no such bucket"):
        storage.put_if_absent("s3://nowhere/x", b"1")
    with pytest.raises(StorageError, match="s3://data/x: there is no such object"):
        storage.read_bytes("s3://data/x")
    with pytest.raises(StorageError, match="s3://UPPER_case/x: "):
        storage.list_objects("s3://UPPER_case/x")
    assert not storage.exists("s3://data/x")


class Denying(Relay):
    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.answer(403, {"Content-Type": "application/xml"}, b"<Error><Code>AccessDenied</Code></Error>")

    do_PUT = do_GET

    def do_HEAD(self) -> None:
        self.answer(403, {}, b"")


def test_denied_access_is_named(through: Any) -> None:
    through(Denying)
    for ask in (storage.list_objects, storage.read_bytes, storage.exists, lambda url: storage.put_if_absent(url, b"1")):
        with pytest.raises(StorageError, match="s3://data/x: access is denied"):
            ask("s3://data/x")


def test_missing_credentials_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3.client.cache_clear()
    with pytest.raises(StorageError, match="s3://data/x: no AWS credentials are set; set AWS_PROFILE"):
        storage.list_objects("s3://data/x")
    s3.client.cache_clear()


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("http://127.0.0.1:9", "S3 cannot be reached"),
        ("not a url", "Invalid endpoint: not a url; check AWS_ENDPOINT_URL"),
    ],
)
def test_an_endpoint_that_cannot_be_reached_is_named(
    endpoint: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    aim(monkeypatch, endpoint)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StorageError, match=message):
        storage.list_objects("s3://data/x")
    s3.client.cache_clear()
