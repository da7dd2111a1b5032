"""`python -m loadtests run` against a real server that behaves as each test tells it."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from loadtests.report import read_results
from loadtests.results import Ending, RunResults, Verdict
from loadtests.settings import Kind

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
PEER = ROOT / "tests/integration/loadtests_peer.py"


@contextmanager
def peer(spec: dict[str, Any]) -> Iterator[str]:
    """Start the peer server and yield its URL."""
    process = subprocess.Popen([sys.executable, str(PEER), json.dumps(spec)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"
        for _ in range(100):
            try:
                urllib.request.urlopen(f"{url}/log", timeout=5).close()
                break
            except OSError:
                time.sleep(0.05)
        yield url
    finally:
        process.kill()
        process.wait(10)


def log_of(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/log", timeout=10) as answer:
        return json.load(answer)


@dataclass(frozen=True, slots=True)
class Ran:
    code: int
    stdout: str
    stderr: str
    folder: Path

    @property
    def results(self) -> RunResults:
        return read_results(self.folder / "results.json")


def command(url: str, folder: Path, *arguments: str) -> list[str]:
    defaults = ["--host", url, "--out", str(folder), "--warm-up", "0.3", "--spawn-rate", "100"]
    return [sys.executable, "-m", "loadtests", "run", *defaults, *arguments]


def run(url: str, folder: Path, *arguments: str, **environment: str) -> Ran:
    done = subprocess.run(
        command(url, folder, *arguments),
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=90,
    )
    return Ran(done.returncode, done.stdout, done.stderr, folder)


@dataclass(frozen=True, slots=True)
class GoodRun:
    ran: Ran
    log: dict[str, Any]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> GoodRun:
    """One run against a healthy server whose streams have a known first pause and known gaps."""
    spec = {"key": "s3cret", "match": {"delay_s": 0.05}, "completion": {"first_s": 0.3, "gap_s": 0.06, "tokens": 8}}
    folder = tmp_path_factory.mktemp("good")
    arguments = ["--users", "match=2,completion=2,rerank=1", "--duration", "5", "--json"]
    slo = folder / "slo.yaml"
    slo.write_text(
        "version: 1\nrules: {errors.share: {max: 0}, match.requests: {min: 5}, completion.itl_p95_ms: {min: 1}}"
    )
    with peer(spec) as url:
        ran = run(url, folder / "out", *arguments, "--slo", str(slo), SLUICE_API_KEY="s3cret")
        return GoodRun(ran, log_of(url))


def test_a_healthy_server_passes_and_the_results_describe_the_run(good: GoodRun) -> None:
    assert good.ran.code == 0, good.ran.stderr
    results = good.ran.results
    assert RunResults.model_validate_json(good.ran.stdout) == results
    assert results.verdict is Verdict.PASS
    assert results.ending is Ending.DURATION
    assert results.measured_s == pytest.approx(5, abs=0.5)
    assert results.totals.errors == results.totals.unfinished == 0
    assert set(results.totals.status_classes) == {"2xx"}
    assert [model.id for model in results.server.models] == ["older", "matching", "generation"]
    assert results.server.headers["x-served-by"] == "peer"
    assert {kind: found.model for kind, found in results.kinds.items()} == {
        Kind.MATCH: "matching",  # the production one, not the first
        Kind.RERANK: "matching",
        Kind.COMPLETION: "generation",
    }
    match = results.kinds[Kind.MATCH]
    assert match.latency is not None
    assert match.latency.p50 >= 49  # asyncio may wake a fraction of a millisecond early
    assert match.server_stages["compute"].p50 == pytest.approx(50)
    assert results.generator.cores >= 1
    assert results.generator.libraries["locust"]
    assert results.generator.loop_lag is not None


def test_the_key_is_sent_and_written_nowhere(good: GoodRun) -> None:
    written = [path.read_text() for path in good.ran.folder.iterdir()]
    assert len(written) == 2
    assert not any("s3cret" in text for text in [*written, good.ran.stdout, good.ran.stderr])


def test_first_text_and_gaps_are_those_that_the_server_made(good: GoodRun) -> None:
    """Ratios to what the server itself measured: a client that buffers the stream shows a late first text, no gaps."""
    streams = [stream for stream in good.log["streams"] if len(stream["sent"]) == 8]
    first_ms = statistics.median((stream["sent"][0] - stream["began"]) * 1000 for stream in streams)
    gaps = [(later - earlier) * 1000 for stream in streams for earlier, later in itertools.pairwise(stream["sent"])]
    found = good.ran.results.kinds[Kind.COMPLETION]
    assert found.ttft is not None
    assert found.itl is not None
    assert found.tpot is not None
    # The way to the server and back adds a little; a client that buffers the stream comes to 2.4 here.
    assert 0.97 <= found.ttft.p50 / first_ms <= 1.35
    assert found.itl.p50 / statistics.median(gaps) == pytest.approx(1, abs=0.15)
    assert found.itl.count == 7 * found.ok
    assert found.tpot.p50 / statistics.mean(gaps) == pytest.approx(1, abs=0.15)
    assert found.tokens_per_event == 1


def test_the_warm_up_is_driven_and_not_measured(good: GoodRun) -> None:
    sent = [entry for entry in good.log["seen"] if entry["path"] == "/v1/match"]
    measured = good.ran.results.kinds[Kind.MATCH].requests
    assert measured < len(sent)
    assert len(sent) - measured < len(sent) / 4


def test_requests_vary_and_can_be_found_in_the_servers_log(good: GoodRun) -> None:
    entries = good.log["seen"]
    ids = [entry["id"] for entry in entries]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"lt[0-9a-f]{6}-(match|rerank|completion)-\d+-\d+", name) for name in ids)
    bodies = [json.dumps(entry["body"]) for entry in entries]
    assert len(set(bodies)) == len(bodies)
    assert {len(entry["body"]["pairs"]) for entry in entries if "pairs" in entry["body"]} == {1, 2, 3, 4}
    slowest = good.ran.results.kinds[Kind.MATCH].slowest
    assert {slow.request_id for slow in slowest} <= set(ids)


def test_the_same_seed_sends_the_same_texts_and_another_sends_others(good: GoodRun, tmp_path: Path) -> None:
    def texts(log: dict[str, Any]) -> dict[str, Any]:
        return {entry["id"].partition("-")[2]: entry["body"] for entry in log["seen"]}

    arguments = ["--users", "match=2,completion=2,rerank=1", "--duration", "1", "--warm-up", "0"]
    with peer({}) as url:
        assert run(url, tmp_path, *arguments).code == 0
        again = texts(log_of(url))
    with peer({}) as url:
        assert run(url, tmp_path, *arguments, "--seed", "8").code == 0
        other = texts(log_of(url))
    first = texts(good.log)
    for kind in Kind:
        shared = [name for name in first.keys() & again.keys() if name.startswith(kind)]
        assert len(shared) >= 4
        assert all(first[name] == again[name] for name in shared)
    differing = first.keys() & other.keys()
    assert differing
    assert all(first[name] != other[name] for name in differing)


def test_failures_are_counted_by_cause_and_violate_the_objectives(tmp_path: Path) -> None:
    spec = {
        "match": {
            "fail": [
                {"every": 7, "status": 500, "code": "engine_failed"},
                {"every": 5, "status": 429, "code": "overloaded", "retry_after": "0"},
                {"every": 11, "status": 429, "code": "overloaded"},
            ]
        },
        "completion": {"cut_after": 3},
    }
    slo = tmp_path / "slo.yaml"
    slo.write_text(
        "version: 1\nrules: {errors.share: {max: 0}, shed.without_retry_after: {max: 0}, rerank.p95_ms: {max: 9}, "
        "match.requests: {min: 1}}"
    )
    with peer(spec) as url:
        ran = run(url, tmp_path, "--users", "match=2,completion=1", "--duration", "3", "--slo", str(slo))
    assert ran.code == 1, ran.stderr
    results = ran.results
    assert results.verdict is Verdict.FAIL
    assert results.slo is not None
    assert {rule.metric: rule.ok for rule in results.slo.rules} == {
        "errors.share": False,
        "shed.without_retry_after": False,
        "rerank.p95_ms": False,
        "match.requests": True,
    }
    rows = {(row.kind, row.code): row for row in results.errors}
    assert set(rows) == {(Kind.MATCH, "http.500"), (Kind.COMPLETION, "transport.cut")}
    assert rows[Kind.MATCH, "http.500"].server_code == "engine_failed"
    match, shed = results.kinds[Kind.MATCH], results.totals.shed
    assert match.errors == rows[Kind.MATCH, "http.500"].count
    assert match.shed == shed.count > shed.without_retry_after > 0
    assert match.requests == match.ok + match.errors + match.shed
    assert results.kinds[Kind.COMPLETION].ok == 0
    assert results.totals.status_classes.keys() == {"2xx", "4xx", "5xx"}
    assert any("carried no readable Retry-After" in finding for finding in results.findings)
    assert "VIOLATED rerank.p95_ms: no data" in ran.stdout
    assert "Fail: 3 of 4 rules violated" in (tmp_path / "report.html").read_text()


def test_answers_that_do_not_fit_their_request_are_errors_though_their_status_is_200(tmp_path: Path) -> None:
    spec = {"match": {"score": 1.5}, "unsorted": True, "completion": {"no_done": True}}
    with peer(spec) as url:
        ran = run(url, tmp_path, "--users", "match=1,rerank=1,completion=1", "--duration", "1", "--items", "9")
    results = ran.results
    assert set(results.totals.error_codes) == {"malformed.score", "malformed.order", "stream.cut"}
    assert set(results.totals.status_classes) == {"2xx"}
    assert results.kinds[Kind.MATCH].ok == results.kinds[Kind.COMPLETION].ok == 0


def test_a_server_that_hangs_is_counted_and_nothing_answered_exits_3(tmp_path: Path) -> None:
    with peer({"match": {"delay_s": 60}}) as url:
        ran = run(url, tmp_path, "--users", "match=3", "--duration", "1", "--timeout", "3")
    assert ran.code == 3, ran.stderr
    results = ran.results
    assert results.verdict is Verdict.NOT_JUDGED
    assert results.totals.error_codes == {"transport.timeout": results.totals.requests}
    assert results.totals.requests == 3  # each hung from the warm-up on, through all of the window
    assert results.totals.unfinished == 0


def test_a_limit_of_requests_ends_the_run(tmp_path: Path) -> None:
    with peer({}) as url:
        ran = run(url, tmp_path, "--users", "match=3", "--duration", "60", "--max-requests", "40")
    assert ran.code == 0, ran.stderr
    assert ran.results.ending is Ending.MAX_REQUESTS
    assert ran.results.totals.requests == 40
    assert any("limit of 40 requests" in finding for finding in ran.results.findings)


def test_an_interrupted_run_writes_what_it_saw_and_does_not_pass(tmp_path: Path) -> None:
    slo = tmp_path / "slo.yaml"
    slo.write_text("version: 1\nrules: {errors.share: {max: 0}}")
    with peer({}) as url:
        arguments = ["--users", "match=1", "--duration", "60", "--slo", str(slo)]
        process = subprocess.Popen(
            command(url, tmp_path, *arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        process.stderr.readline()  # driving …
        process.stderr.readline()  # the first figures
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    results = read_results(tmp_path / "results.json")
    assert results.ending is Ending.INTERRUPTED
    assert results.verdict is Verdict.NOT_JUDGED
    assert results.totals.ok > 0
    assert 4 < results.measured_s < 30
    assert "The run was interrupted" in stdout
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("spec", "users", "code", "complaint"),
    [
        ({"not_ready": True}, "match=1", 3, "is not ready: /readyz answered 503: told to answer 503"),
        ({"without": ["generation"]}, "completion=1", 2, "the server has no generation model; it serves older"),
    ],
)
def test_a_server_that_cannot_be_driven_is_said_before_the_run(
    tmp_path: Path, spec: dict[str, Any], users: str, code: int, complaint: str
) -> None:
    with peer(spec) as url:
        ran = run(url, tmp_path / "out", "--users", users)
    assert (ran.code, complaint in ran.stderr) == (code, True), ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "out/results.json").exists()


def test_a_dead_host_exits_3(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers there
        ran = run(f"http://127.0.0.1:{unused.getsockname()[1]}", tmp_path)
    assert ran.code == 3
    assert "cannot be reached: nobody listens" in ran.stderr
    assert "Traceback" not in ran.stderr
