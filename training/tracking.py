"""A run in MLflow's tracking server, by its REST API, so that nothing of MLflow is installed here.

Metrics go out with each checkpoint: a run that is killed goes on from there, and no step is sent twice. A server that
goes away does not stop a training.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from runtime.errors import InvalidInput
from training.run_record import TrainRecord

TIMEOUT_S = 10.0
BATCH = 500  # metrics a request; MLflow takes 1,000


class MlflowRun:
    """One run on the server at `uri`: begun, or gone on with when `run_id` is given, of which the server has all up to
    `step`. Raises InvalidInput when the server does not answer or refuses."""

    def __init__(self, uri: str, experiment: str, record: TrainRecord, run_id: str | None, step: int) -> None:
        self._uri = uri.rstrip("/")
        self._started = record.started
        self._sent = step
        self._waiting: list[dict[str, Any]] = []
        self.run_id = run_id or self._begin(experiment, record)
        self._call("runs/update", {"run_id": self.run_id, "status": "RUNNING"})

    def write(self, entry: Mapping[str, Any]) -> None:
        """Keep the figures of one entry of the log until the next checkpoint."""
        if entry["step"] <= self._sent:
            return
        at = _milliseconds(self._started) + int(1000 * entry["seconds"])
        self._waiting += [
            {"key": key, "value": value, "step": entry["step"], "timestamp": at}
            for key, value in entry.items()
            if key not in ("step", "seconds")
        ]

    def flush(self) -> None:
        """Send what waits; where the server is gone, it waits on."""
        try:
            while self._waiting:
                self._call("runs/log-batch", {"run_id": self.run_id, "metrics": self._waiting[:BATCH]})
                del self._waiting[:BATCH]
        except InvalidInput as error:
            print(f"WARNING: {error} {len(self._waiting)} figures wait for the next checkpoint.", flush=True)

    def finish(self, record: TrainRecord) -> None:
        """The figures of the finished run, and its end."""
        step = record.recipe.train.steps
        self._sent = -1
        parts = {"valid": record.valid, "test": record.test}
        figures = {f"final_{split}_{name}": value for split, part in parts.items() for name, value in part.items()}
        self.write(figures | {"step": step, "seconds": record.seconds})
        self.flush()
        try:
            self._call("runs/update", {"run_id": self.run_id, "status": "FINISHED"})
        except InvalidInput as error:
            print(f"WARNING: {error}", flush=True)

    def _begin(self, experiment: str, record: TrainRecord) -> str:
        found = self._call("experiments/get-by-name", {"experiment_name": experiment}, get=True)
        made = found.get("experiment") or self._call("experiments/create", {"name": experiment})
        tags = {"mlflow.runName": record.recipe.name, "mlflow.source.git.commit": record.git_commit or "unknown"}
        begun = {
            "experiment_id": made["experiment_id"],
            "start_time": _milliseconds(record.started),
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        }
        run_id = str(self._call("runs/create", begun)["run"]["info"]["run_id"])
        params = record.depends_on | {f"version of {name}": value for name, value in record.versions.items()}
        described = [{"key": key, "value": str(value)[:500]} for key, value in params.items()]
        self._call("runs/log-batch", {"run_id": run_id, "params": described[:100]})
        return run_id

    def _call(self, path: str, body: dict[str, Any], *, get: bool = False) -> dict[str, Any]:
        """The answer; {} for a GET of what is not there."""
        url = f"{self._uri}/api/2.0/mlflow/{path}"
        query = f"?{urllib.parse.urlencode(body)}" if get else ""
        data = None if get else json.dumps(body).encode()
        request = urllib.request.Request(url + query, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            if get and error.code == 404:
                return {}
            said = error.read(300).decode(errors="replace")
            raise InvalidInput(f"track.mlflow {self._uri} answers {error.code} to {path}: {said}") from None
        except (OSError, ValueError) as error:
            raise InvalidInput(
                f"track.mlflow {self._uri} cannot be reached ({error}); start the server, or leave the setting out."
            ) from None


def _milliseconds(moment: datetime) -> int:
    return int(1000 * moment.timestamp())
