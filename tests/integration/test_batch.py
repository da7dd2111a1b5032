"""`python -m batch` as a user runs it: from files and from S3 (moto's server), both kinds of model, and refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batch.job import Job
from records.document import read_document
from records.rows import Row, read_rows
from runtime.backends.fake import write_fake_artifact
from tests.integration.batch_job import contents, make_store, pairs, run, write_job
from tests.integration.s3_server import fresh_buckets, moto_server

pytestmark = pytest.mark.integration


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


def test_from_bucket_to_bucket(home: Path, tmp_path: Path, s3: Any, endpoint: str) -> None:
    s3.put_object(Bucket="data-in", Key="pairs/", Body=b"")  # a console's marker of a folder
    s3.put_object(Bucket="data-in", Key="pairs/a.jsonl", Body=pairs(120))
    s3.put_object(
        Bucket="data-in", Key="pairs/b.csv", Body=b"id,text_a,text_b\r\nx,same words,words same\r\ny,one,two\r\n"
    )
    job = write_job(tmp_path, input="s3://data-in/pairs/", output="s3://data-out/run", columns={"id": "id"})
    code, report, log = run(home, job, endpoint=endpoint)
    assert code == 0, log
    assert (report["rows_in"], report["rows_out"], report["rows_bad"], report["duplicate_ids"]) == (122, 122, 0, 0)
    assert report["model"]["tag"] == "m:1"
    there = contents(s3, "run/")
    shards = [*(f"part-00000-{n:05d}" for n in range(5)), "part-00001-00000"]
    assert sorted(there) == ["_PLAN.json", "_SUCCESS", *(f"{shard}.jsonl" for shard in shards)]
    assert [shard["name"] for shard in report["shards"]] == shards
    last = [json.loads(line) for line in there["part-00001-00000.jsonl"].splitlines()]
    assert [(row["id"], row["match"], row["label"]) for row in last] == [("x", True, "same"), ("y", False, "different")]
    ids = [json.loads(line)["id"] for shard in shards[:5] for line in there[f"{shard}.jsonl"].splitlines()]
    assert ids == [f"r{n}" for n in range(120)]
    assert json.loads(there["_SUCCESS"]) == report


def test_a_finished_job_does_nothing_again(home: Path, tmp_path: Path, s3: Any, endpoint: str) -> None:
    s3.put_object(Bucket="data-in", Key="pairs/a.jsonl", Body=pairs(30))
    job = write_job(tmp_path, input="s3://data-in/pairs/", output="s3://data-out/run")
    run(home, job, endpoint=endpoint)
    before = {item["Key"]: item["LastModified"] for item in s3.list_objects_v2(Bucket="data-out")["Contents"]}
    code, report, log = run(home, job, endpoint=endpoint)
    assert (code, report["rows_out"]) == (0, 30)
    assert "is finished: nothing to do" in log
    assert {item["Key"]: item["LastModified"] for item in s3.list_objects_v2(Bucket="data-out")["Contents"]} == before


def test_bad_rows_go_to_the_errors_with_reasons(home: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    lines = ["{", '{"text_a": "a"}', '{"text_a": 1, "text_b": "b"}', '{"text_a": "\\ud800", "text_b": "b"}']
    lines += ['{"id": 7, "text_a": "<poison>", "text_b": "b"}', '{"text_a": "a", "text_b": "a"}']
    lines += [json.dumps({"text_a": "long " * 100, "text_b": "b"})]
    (source / "x.jsonl").write_text("\n".join(lines))
    output = tmp_path / "out"
    job = write_job(tmp_path, input=str(source), output=str(output), truncate=False)
    code, _, log = run(home, job)
    assert code == 1
    assert "6 of 7 rows are bad (85.7%), max_error_share allows 1.0%" in log
    assert f"{source}/x.jsonl:2: no column 'text_b'" in log
    assert not (output / "_SUCCESS").exists()
    code, report, log = run(home, job, "max_error_share=0.9")
    assert code == 0, log
    assert (report["rows_in"], report["rows_out"], report["rows_bad"]) == (7, 1, 6)
    errors = [json.loads(line) for line in (output / "_errors/part-00000-00000.jsonl").read_text().splitlines()]
    assert [error["line"] for error in errors] == [1, 2, 3, 4, 5, 7]
    assert {error["file"] for error in errors} == {f"{source}/x.jsonl"}
    assert [error["id"] for error in errors] == [None, None, None, None, "7", "x.jsonl#7"]
    reasons = ("not JSON", "no column 'text_b'", "text_a is not text but int", "lone surrogate", "model failed")
    for error, reason in zip(errors, (*reasons, "the pair has 502 tokens; this model takes 256"), strict=True):
        assert reason in error["reason"]
    assert json.loads((output / "part-00000-00000.jsonl").read_text())["id"] == "x.jsonl#6"


@pytest.mark.parametrize("format", ["csv", "parquet", "jsonl"])
def test_every_output_format_reads_back(home: Path, tmp_path: Path, format: str) -> None:
    (tmp_path / "x.data").write_bytes(pairs(10))
    output = tmp_path / "out"
    job = write_job(
        tmp_path, input=str(tmp_path / "x.data"), input_format="jsonl", output=str(output), format=format, workers=1
    )
    code, report, log = run(home, job)
    assert code == 0, log
    assert report["rows_out"] == 10
    rows = [row.values for row in read_rows(str(output)) if isinstance(row, Row)]
    assert [row["id"] for row in rows] == [f"r{n}" for n in range(10)]
    assert set(rows[0]) == {"id", "score", "label", "match", "truncated"}
    assert rows[0]["match"] in ({"true", "false"} if format == "csv" else {True, False})


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
    assert [(row["tokens"], len(row["completion"]), row["finish_reason"]) for row in rows] == [(60, 60, "length")] * 3
    errors = (output / "_errors/part-00000-00000.jsonl").read_text()
    assert "The prompt has 200 tokens and max_tokens is 60; this model's context is 256" in errors


def test_a_dry_run_tells_all_and_writes_nothing(home: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(pairs(30) + b"{\n" + pairs(1))
    job = write_job(tmp_path, input=str(tmp_path / "x.jsonl"), output=str(tmp_path / "out"))
    code, report, log = run(home, job, "--dry-run")
    assert code == 0, log
    assert (report["rows_in"], report["usable"], report["shards"], report["duplicate_ids"]) == (32, 31, 2, 1)
    assert report["first_unusable"][0]["line"] == 31
    assert not (tmp_path / "out").exists()
    assert run(home, job, action="status")[0] == 2


def test_ids_that_come_twice_are_told_with_their_places(home: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(pairs(3) + pairs(2))
    job = write_job(tmp_path, input=str(tmp_path / "x.jsonl"), output=str(tmp_path / "out"))
    code, report, log = run(home, job)
    assert (code, report["rows_out"], report["duplicate_ids"]) == (0, 5, 2)
    assert f"the same id twice: 'r1' at {tmp_path}/x.jsonl:2 and {tmp_path}/x.jsonl:5" in log


def change_input(folder: Path) -> None:
    (folder / "x.jsonl").write_bytes(pairs(31))


def change_model(folder: Path) -> None:
    write_fake_artifact(folder / "home/models/m/1", "matching", max_tokens=100)


@pytest.mark.parametrize(
    ("change", "overrides", "what"),
    [
        (change_input, (), "x.jsonl has changed"),
        (change_model, (), "model: it was m:1"),
        (None, ("shard_rows=3",), "shard_rows: it was 25, now 3"),
        (None, ("threshold=0.9",), "threshold: it was 0.5, now 0.9"),
        (None, ("columns.text_a=id",), "columns.text_a: it was 'text_a', now 'id'"),
    ],
)
def test_another_job_on_the_same_output_is_refused(
    home: Path, tmp_path: Path, change: Callable[[Path], None] | None, overrides: tuple[str, ...], what: str
) -> None:
    (tmp_path / "x.jsonl").write_bytes(pairs(30))
    job = write_job(tmp_path, input=str(tmp_path / "x.jsonl"), output=str(tmp_path / "out"), workers=1)
    assert run(home, job)[0] == 0
    if change:
        change(tmp_path)
    code, _, log = run(home, job, *overrides)
    assert code == 2
    assert f"{tmp_path}/out belongs to another job" in log
    assert what in log


@pytest.mark.parametrize(
    ("settings", "code", "message"),
    [
        ({"input": "IN", "output": "OUT", "modle": "m"}, 2, "did you mean 'model'?"),
        ({"input": "IN", "output": "IN/out"}, 2, "overlap"),
        ({"input": "NOWHERE", "output": "OUT"}, 1, "no such file or folder"),
        ({"input": "IN", "output": "OUT", "model": "nobody"}, 2, "No model is named 'nobody'"),
        ({"input": "s3://", "output": "OUT"}, 1, "names no bucket"),
        ({"input": "EMPTY", "output": "OUT"}, 2, "there is nothing there to read"),
        ({"input": "TEXT", "output": "OUT"}, 2, "unknown ending"),
        ({"input": "IN", "output": "OUT", "encoding": "klingon"}, 2, "encoding 'klingon' is not known"),
        ({"input": "IN", "output": "OUT", "columns": {"text_a": "q"}}, 2, "the first is IN/x.jsonl:1: no column 'q'"),
        ({"input": "IN", "output": "OUT", "model": "g", "truncate": False}, 2, "truncate mean nothing"),
        ({"input": "IN", "output": "FULL"}, 2, "holds part-x but no _PLAN.json"),
    ],
)
def test_what_cannot_be_run_is_named(
    home: Path, tmp_path: Path, settings: dict[str, Any], code: int, message: str
) -> None:
    for name in ("IN", "EMPTY", "TEXT", "FULL"):
        (tmp_path / name).mkdir()
    (tmp_path / "IN/x.jsonl").write_bytes(pairs(3))
    (tmp_path / "TEXT/x.txt").write_text("x")
    (tmp_path / "FULL/part-x").write_text("x")
    placed = {
        key: str(tmp_path / value) if (isinstance(value, str) and value.isupper()) or value == "IN/out" else value
        for key, value in settings.items()
    }
    result, _, log = run(home, write_job(tmp_path, **placed))
    assert result == code
    assert message in log.replace(f"{tmp_path}/", "")
    assert "Traceback" not in log
    assert not (tmp_path / "OUT").exists()


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


@pytest.mark.parametrize("name", ["pairs", "prompts"])
def test_the_jobs_of_the_documentation_run(tmp_path: Path, name: str) -> None:
    write_fake_artifact(tmp_path / "models/matching/1", "matching")
    write_fake_artifact(tmp_path / "models/generation/1", "generation")
    job = Path(f"batch/jobs/{name}.yaml")
    source = Path(read_document(job, Job).input)
    code, report, log = run(tmp_path, job, f"output={tmp_path}/out")
    assert code == 0, log
    assert report["rows_out"] == len(source.read_text(encoding="utf-8").splitlines()) > 0
