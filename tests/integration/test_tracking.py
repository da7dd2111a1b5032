"""A run on a server that speaks what is used of the MLflow REST API; one that goes away; one that is not there."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.unit.training.tiny import encoder_folder, pair_rows, write_jsonl
from training.train import main as train

pytestmark = pytest.mark.integration


class Tracking(ThreadingHTTPServer):
    """Keeps what it is told; answers 503 while `down`."""

    calls: list[tuple[str, dict[str, Any]]]
    down = False

    def named(self, path: str) -> list[dict[str, Any]]:
        """Bodies of the calls to `path`."""
        return [body for called, body in self.calls if called == path]


class Handler(BaseHTTPRequestHandler):
    """One call."""

    server: Tracking

    def do_GET(self) -> None:
        """No experiment is there yet."""
        self._answer(404, {"error_code": "RESOURCE_DOES_NOT_EXIST"})

    def do_POST(self) -> None:
        """Whatever is created has the id 5."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.down:
            self._answer(503, {})
            return
        self.server.calls.append((self.path.removeprefix("/api/2.0/mlflow/"), body))
        self._answer(200, {"experiment_id": "5", "run": {"info": {"run_id": "5"}}})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *arguments: Any) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[Tracking]:
    """On a free port of the loopback."""
    with Tracking(("127.0.0.1", 0), Handler) as tracking:
        tracking.calls = []
        threading.Thread(target=tracking.serve_forever, daemon=True).start()
        yield tracking
        tracking.shutdown()


@pytest.fixture
def recipe(tmp_path: Path) -> list[str]:
    """Arguments of a training of eight steps, validated twice."""
    encoder_folder(tmp_path / "base")
    for split in ("train", "valid", "test"):
        write_jsonl(tmp_path / f"{split}.jsonl", pair_rows(40, 3))
    splits = ", ".join(f"{split}: {tmp_path}/{split}.jsonl" for split in ("train", "valid", "test"))
    (tmp_path / "recipe.yaml").write_text(
        f"name: tiny\nruns: {tmp_path}/runs\nmodel: {{kind: matching, base: {tmp_path}/base, max_tokens: 48}}\n"
        f"data: {{{splits}}}\ntrain: {{learning_rate: 2.0e-3, steps: 8, validate_every: 4, batch_size: 8}}\n"
    )
    return [str(tmp_path / "recipe.yaml")]


def test_a_run_is_told_with_its_settings_each_step_once_and_its_end(
    server: Tracking, recipe: list[str], tmp_path: Path
) -> None:
    assert train([*recipe, f"track.mlflow=http://127.0.0.1:{server.server_port}"]) == 0
    (created,) = server.named("runs/create")
    assert created["experiment_id"] == "5"
    batches = server.named("runs/log-batch")
    params = {each["key"]: each["value"] for batch in batches for each in batch.get("params", ())}
    assert (params["train.steps"], params["seed"]) == ("8", "7")
    metrics = [(each["key"], each["step"], each["value"]) for batch in batches for each in batch.get("metrics", ())]
    log = [json.loads(line) for line in (tmp_path / "runs/tiny/train_log.jsonl").read_text().splitlines()]
    losses = [("loss", entry["step"], entry["loss"]) for entry in log if "loss" in entry]
    assert [each for each in metrics if each[0] == "loss"] == losses
    record = json.loads((tmp_path / "runs/tiny/train.json").read_text())
    assert ("final_test_f1", 8, record["test"]["f1"]) in metrics
    assert [body["status"] for body in server.named("runs/update")] == ["RUNNING", "FINISHED"]
    assert record["mlflow_run"] == "5"


def test_a_server_that_goes_away_stops_no_training(
    server: Tracking, recipe: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from training import train as command

    begin = command.prepare

    def gone(*arguments: Any) -> Any:
        server.down = True
        return begin(*arguments)

    monkeypatch.setattr(command, "prepare", gone)
    assert train([*recipe, f"track.mlflow=http://127.0.0.1:{server.server_port}"]) == 0
    assert "answers 503 to runs/log-batch" in capsys.readouterr().out


def test_a_server_that_is_not_there_is_named_before_anything_is_trained(
    recipe: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train([*recipe, "track.mlflow=http://127.0.0.1:1"]) == 1
    assert "track.mlflow http://127.0.0.1:1 cannot be reached" in capsys.readouterr().err
    assert not (tmp_path / "runs/tiny/train_log.jsonl").exists()
