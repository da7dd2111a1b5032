"""A batch job as a user runs it: from files and from S3 (moto's server), stopped anywhere, raced, refused."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from records import s3 as records_s3
from runtime.backends.fake import write_fake_artifact

pytestmark = pytest.mark.integration
ROWS = 120


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty pair of buckets; `records` in this process looks there too."""
    for name, value in environ_of(endpoint).items():
        monkeypatch.setenv(name, value)
    records_s3.client.cache_clear()
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST")).close()
    client = boto3.client("s3", endpoint_url=endpoint)
    for bucket in ("data-in", "data-out"):
        client.create_bucket(Bucket=bucket)
    yield client
    records_s3.client.cache_clear()


def environ_of(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A store with a fast and a slow matching model and a generation model, none of which needs weights."""
    write_fake_artifact(tmp_path / "home/models/m/1", "matching")
    write_fake_artifact(tmp_path / "home/models/slow/1", "matching", latency_s=0.05)
    write_fake_artifact(tmp_path / "home/models/g/1", "generation")
    return tmp_path / "home"


def pairs(count: int = ROWS) -> bytes:
    rows = [{"id": f"r{n}", "text_a": f"word{n % 7} a b", "text_b": f"word{n % 5} b"} for n in range(count)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def start(home: Path, job: Path, *overrides: str, endpoint: str = "") -> subprocess.Popen[str]:
    environ = {**os.environ, "BENTOML_HOME": str(home), **(environ_of(endpoint) if endpoint else {})}
    command = [sys.executable, "-m", "batch", "run", str(job), "--json", *overrides]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ, start_new_session=True
    )


def run(home: Path, job: Path, *overrides: str, endpoint: str = "") -> tuple[int, dict[str, Any], str]:
    """(exit code, report, log) of a run to its end."""
    process = start(home, job, *overrides, endpoint=endpoint)
    out, err = process.communicate(timeout=120)
    return process.returncode, json.loads(out) if out.strip() else {}, err


def write_job(folder: Path, **settings: Any) -> Path:
    path = folder / "job.yaml"
    path.write_text(json.dumps({"model": "m", "shard_rows": 25, **settings}))  # JSON is YAML
    return path


def contents(client: Any, bucket: str = "data-out") -> dict[str, bytes]:
    found = client.list_objects_v2(Bucket=bucket).get("Contents", ())
    return {item["Key"]: client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read() for item in found}


def test_from_bucket_to_bucket(home: Path, tmp_path: Path, s3: Any, endpoint: str) -> None:
    s3.put_object(Bucket="data-in", Key="pairs/a.jsonl", Body=pairs())
    s3.put_object(
        Bucket="data-in", Key="pairs/b.csv", Body=b"id,text_a,text_b\r\nx,same words,words same\r\ny,one,two\r\n"
    )
    job = write_job(tmp_path, input="s3://data-in/pairs/", output="s3://data-out/run", columns={"id": "id"})
    code, report, log = run(home, job, endpoint=endpoint)
    assert code == 0, log
    assert (report["rows_in"], report["rows_out"], report["rows_bad"], report["duplicate_ids"]) == (122, 122, 0, 0)
    there = contents(s3)
    parts = [*(f"part-00000-{n:05d}.jsonl" for n in range(5)), "part-00001-00000.jsonl"]
    assert sorted(there) == sorted(f"run/{name}" for name in ["_PLAN.json", "_SUCCESS", *parts])
    last = [json.loads(line) for line in there["run/part-00001-00000.jsonl"].splitlines()]
    assert [(row["id"], row["match"], row["label"]) for row in last] == [("x", True, "same"), ("y", False, "different")]
    ids = [json.loads(line)["id"] for n in range(5) for line in there[f"run/part-00000-{n:05d}.jsonl"].splitlines()]
    assert ids == [f"r{n}" for n in range(ROWS)]
    assert json.loads(there["run/_SUCCESS"]) == report


def test_a_finished_job_does_nothing_again(home: Path, tmp_path: Path, s3: Any, endpoint: str) -> None:
    s3.put_object(Bucket="data-in", Key="pairs/a.jsonl", Body=pairs(30))
    job = write_job(tmp_path, input="s3://data-in/pairs/", output="s3://data-out/run")
    run(home, job, endpoint=endpoint)
    before = {item["Key"]: item["LastModified"] for item in s3.list_objects_v2(Bucket="data-out")["Contents"]}
    code, report, log = run(home, job, endpoint=endpoint)
    assert (code, report["rows_out"]) == (0, 30)
    assert "is finished: nothing to do" in log
    assert {item["Key"]: item["LastModified"] for item in s3.list_objects_v2(Bucket="data-out")["Contents"]} == before


def test_killed_anywhere_and_started_again_gives_what_one_clean_run_gives(
    home: Path, tmp_path: Path, s3: Any, endpoint: str
) -> None:
    data = pairs() + b"not json\n" + pairs(20)
    s3.put_object(Bucket="data-in", Key="pairs/a.jsonl", Body=data)
    clean = write_job(tmp_path, input="s3://data-in/pairs/", output="s3://data-out/clean", model="slow", shard_rows=7)
    code, _, log = run(home, clean, endpoint=endpoint)
    assert code == 0, log
    chance = random.Random(5)
    for attempt in range(3):
        output = f"output=s3://data-out/killed{attempt}"
        for _ in range(2):
            process = start(home, clean, output, endpoint=endpoint)
            # Somewhere between "nothing committed" and "nearly done", by what is there, not by the clock.
            wanted = chance.randint(1, 12)
            while process.poll() is None:
                found = s3.list_objects_v2(Bucket="data-out", Prefix=f"killed{attempt}/part").get("KeyCount", 0)
                if found >= wanted:
                    break
                time.sleep(0.01)
            with suppress(ProcessLookupError):  # it may have finished first
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        code, _, log = run(home, clean, output, endpoint=endpoint)
        assert code == 0, log
        there = contents(s3)
        expected = {key.removeprefix("clean/"): body for key, body in there.items() if key.startswith("clean/")}
        got = {k.removeprefix(f"killed{attempt}/"): v for k, v in there.items() if k.startswith(f"killed{attempt}/")}
        assert got == expected


def race(home: Path, job: Path, endpoint: str) -> list[tuple[int, str]]:
    """Two whole jobs on one output at once; (exit code, log) of each."""
    both = [start(home, job, endpoint=endpoint) for _ in range(2)]
    logs = [process.communicate(timeout=120)[1] for process in both]
    return [(process.returncode, log) for process, log in zip(both, logs, strict=True)]


def commits_once(client: Any, home: Path, job: Path, endpoint: str) -> None:
    """The protocol's promise: however many write, each object is written once. Fails on a store that lets them."""
    client.put_bucket_versioning(Bucket="data-out", VersioningConfiguration={"Status": "Enabled"})
    for code, log in race(home, job, endpoint):
        assert code == 0, log
    versions = [item["Key"] for item in client.list_object_versions(Bucket="data-out")["Versions"]]
    assert sorted(versions) == sorted(set(versions)), "an object was written twice"


def test_two_jobs_at_once_commit_each_shard_once(home: Path, tmp_path: Path, s3: Any, endpoint: str) -> None:
    s3.put_object(Bucket="data-in", Key="pairs/a.jsonl", Body=pairs())
    job = write_job(tmp_path, input="s3://data-in/pairs/", output="s3://data-out/run", model="slow", shard_rows=5)
    commits_once(s3, home, job, endpoint)


class Forgetful(BaseHTTPRequestHandler):
    """A proxy before moto that drops the condition of a write, as a store that does not know it would."""

    upstream: str
    protocol_version = "HTTP/1.1"

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def forward(self) -> None:
        body = self.body()
        dropped = {"if-none-match", "expect", "transfer-encoding", "content-length"}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
        headers.setdefault("Content-Type", "binary/octet-stream")  # urllib's default is a form, which moto would parse
        request = urllib.request.Request(self.upstream + self.path, body or None, headers, method=self.command)
        try:
            answer = urllib.request.urlopen(request, timeout=30)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            data = answer.read()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in {"transfer-encoding", "connection", "content-length"}:
                    self.send_header(name, value)
            length = answer.headers.get("Content-Length") if self.command == "HEAD" else str(len(data))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            self.wfile.write(data)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = forward

    def log_message(self, format: str, *arguments: Any) -> None:
        """Quiet."""


def test_the_commit_test_fails_on_a_store_that_ignores_the_condition(
    home: Path, tmp_path: Path, s3: Any, endpoint: str
) -> None:
    handler = type("Handler", (Forgetful,), {"upstream": endpoint})
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    s3.put_object(Bucket="data-in", Key="pairs/a.jsonl", Body=pairs())
    job = write_job(tmp_path, input="s3://data-in/pairs/", output="s3://data-out/run", model="slow", shard_rows=5)
    with pytest.raises(AssertionError, match="written twice"):
        commits_once(s3, home, job, f"http://127.0.0.1:{proxy.server_port}")
    proxy.shutdown()


def test_bad_rows_go_to_the_errors_with_reasons(home: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    lines = ["{", '{"text_a": "a"}', '{"text_a": 1, "text_b": "b"}', '{"text_a": "\\ud800", "text_b": "b"}']
    lines += ['{"text_a": "<poison>", "text_b": "b"}', '{"text_a": "a", "text_b": "a"}']
    (source / "x.jsonl").write_text("\n".join(lines))
    output = tmp_path / "out"
    job = write_job(tmp_path, input=str(source), output=str(output))
    code, _, log = run(home, job)
    assert code == 1
    assert "5 of 6 rows are bad (83.3%), max_error_share allows 1.0%" in log
    assert not (output / "_SUCCESS").exists()
    code, report, log = run(home, job, "max_error_share=0.9")
    assert code == 0, log
    assert (report["rows_in"], report["rows_out"], report["rows_bad"]) == (6, 1, 5)
    errors = [json.loads(line) for line in (output / "_errors/part-00000-00000.jsonl").read_text().splitlines()]
    assert [error["line"] for error in errors] == [1, 2, 3, 4, 5]
    for error, reason in zip(
        errors,
        ("not JSON", "no column 'text_b'", "text_a is not text but int", "lone surrogate", "model failed"),
        strict=True,
    ):
        assert reason in error["reason"]
    assert json.loads((output / "part-00000-00000.jsonl").read_text())["id"] == "x.jsonl#6"


@pytest.mark.parametrize("format", ["csv", "parquet", "jsonl"])
def test_every_output_format_reads_back(home: Path, tmp_path: Path, format: str) -> None:
    (tmp_path / "x.jsonl").write_bytes(pairs(10))
    output = tmp_path / "out"
    job = write_job(tmp_path, input=str(tmp_path / "x.jsonl"), output=str(output), format=format)
    code, report, log = run(home, job)
    assert code == 0, log
    assert report["rows_out"] == 10
    from records.rows import Row, read_rows

    rows = [row.values for row in read_rows(str(output)) if isinstance(row, Row)]
    assert [row["id"] for row in rows] == [f"x.jsonl#{n}" for n in range(1, 11)]
    assert set(rows[0]) == {"id", "score", "label", "match", "truncated"}


def test_generation_over_prompts(home: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("".join(json.dumps({"prompt": "p" * n}) + "\n" for n in (3, 200, 1, 40)))
    output = tmp_path / "out"
    job = write_job(
        tmp_path, input=str(tmp_path / "x.jsonl"), output=str(output), model="g", generate={"max_tokens": 60},
        max_error_share=0.5,
    )  # fmt: skip
    code, report, log = run(home, job)
    assert code == 0, log
    assert (report["rows_out"], report["rows_bad"]) == (3, 1)
    rows = [json.loads(line) for line in (output / "part-00000-00000.jsonl").read_text().splitlines()]
    assert [row["tokens"] for row in rows] == [60, 60, 60]
    assert "exceed the model's context of 256" in (output / "_errors/part-00000-00000.jsonl").read_text()


def test_a_worker_that_dies_costs_one_try_and_one_that_always_dies_ends_the_job(home: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(pairs(60))
    job = write_job(
        tmp_path, input=str(tmp_path / "x.jsonl"), output=str(tmp_path / "out"), model="slow", shard_rows=2, workers=1
    )
    process = start(home, job)
    while not list((tmp_path / "out").glob("part-*")):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(worker_of(process.pid), signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(out)["rows_out"] == 60


def worker_of(pid: int) -> int:
    """The process that scores: the child of `pid` that is not Python's resource tracker."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return next(int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes())


def test_a_killed_parent_leaves_no_worker_behind(home: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(pairs(200))
    job = write_job(tmp_path, input=str(tmp_path / "x.jsonl"), output=str(tmp_path / "out"), model="slow", shard_rows=2)
    process = start(home, job)
    while not list((tmp_path / "out").glob("part-*")):
        assert process.poll() is None
        time.sleep(0.01)
    worker = worker_of(process.pid)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{worker}/cmdline").exists() and Path(f"/proc/{worker}/cmdline").read_bytes():
        assert time.monotonic() < deadline, "the worker goes on without its parent"
        time.sleep(0.05)


def change_input(folder: Path) -> None:
    (folder / "x.jsonl").write_bytes(pairs(31))


def change_model(folder: Path) -> None:
    write_fake_artifact(folder / "home/models/m/1", "matching", max_tokens=100)


@pytest.mark.parametrize(
    ("change", "overrides", "what"),
    [
        (change_input, (), "inputs"),
        (change_model, (), "model_digest"),
        (lambda folder: None, ("shard_rows=3",), "shard_rows"),
        (lambda folder: None, ("threshold=0.9",), "threshold"),
    ],
)
def test_another_job_on_the_same_output_is_refused(
    home: Path, tmp_path: Path, change: Callable[[Path], None], overrides: tuple[str, ...], what: str
) -> None:
    (tmp_path / "x.jsonl").write_bytes(pairs(30))
    job = write_job(tmp_path, input=str(tmp_path / "x.jsonl"), output=str(tmp_path / "out"))
    assert run(home, job)[0] == 0
    change(tmp_path)
    code, _, log = run(home, job, *overrides)
    assert code == 1
    assert f"belongs to another job: {what} differ" in log


@pytest.mark.parametrize(
    ("settings", "code", "message"),
    [
        ({"input": "IN", "output": "OUT", "modle": "m"}, 2, "did you mean 'model'?"),
        ({"input": "IN", "output": "IN/out"}, 2, "overlap"),
        ({"input": "NOWHERE", "output": "OUT"}, 1, "no such file or folder"),
        ({"input": "IN", "output": "OUT", "model": "nobody"}, 1, "No model is named 'nobody'"),
        ({"input": "s3://", "output": "OUT"}, 1, "names no bucket"),
        ({"input": "EMPTY", "output": "OUT"}, 1, "there is nothing there to read"),
        ({"input": "TEXT", "output": "OUT"}, 1, "unknown ending"),
    ],
)
def test_what_cannot_be_run_is_named(
    home: Path, tmp_path: Path, settings: dict[str, str], code: int, message: str
) -> None:
    for name in ("IN", "EMPTY", "TEXT"):
        (tmp_path / name).mkdir()
    (tmp_path / "IN/x.jsonl").write_bytes(pairs(3))
    (tmp_path / "TEXT/x.txt").write_text("x")
    placed = {key: value if value.startswith("s3") or key == "model" or key == "modle" else str(tmp_path / value)
              for key, value in settings.items()}  # fmt: skip
    result, _, log = run(home, write_job(tmp_path, **placed))
    assert result == code
    assert message in log
    assert "Traceback" not in log


def test_a_bucket_that_is_not_there_is_named(home: Path, tmp_path: Path, s3: Any, endpoint: str) -> None:
    job = write_job(tmp_path, input="s3://nowhere/pairs/", output="s3://data-out/run")
    code, _, log = run(home, job, endpoint=endpoint)
    assert code == 1
    assert "s3://nowhere/pairs/: there is no such bucket" in log


def test_an_endpoint_that_does_not_answer_is_named(home: Path, tmp_path: Path) -> None:
    job = write_job(tmp_path, input="s3://data-in/pairs/", output="s3://data-out/run")
    code, _, log = run(home, job, endpoint="http://127.0.0.1:9")
    assert code == 1
    assert "S3 cannot be reached" in log
