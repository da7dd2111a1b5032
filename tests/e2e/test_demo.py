"""The demo's own steps that need no training: the adopted model, made when it is missing, and the journey's calls."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from demo.journey import call
from runtime.store import ModelStore
from tests.e2e.serving_process import ROOT, environment, publish, serve

pytestmark = pytest.mark.e2e


def test_the_missing_embedding_model_is_made_and_answers_beside_the_others(tmp_path: Path) -> None:
    """The others are there already, as fakes; the bi-encoder is the real one."""
    home = tmp_path / "home"
    there = [publish(home, kind, kind) for kind in ("matching", "generation")]
    command = [sys.executable, "-m", "demo", "models", "--if-missing"]
    for steps in (["publish embedding"], []):
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={**environment(home), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        made = [line.partition("] ")[2].partition(":")[0] for line in done.stdout.splitlines() if line.startswith("[")]
        assert made == steps

    store = ModelStore(home)
    adopted = store.resolve("embedding:production")
    assert (adopted.manifest.kind, adopted.manifest.precision) == ("embedding", "int8")
    assert [store.resolve(f"{kind}:production").tag for kind in ("matching", "generation")] == there

    with serve(home) as server:
        rows = {row.step: row.result for row in call(server.url)}
    assert list(rows) == [
        "POST /v1/match",
        "POST /v1/rerank",
        "POST /v1/embeddings",
        "POST /v1/completions (stream)",
    ]
    said, _, cosines = rows["POST /v1/embeddings"].partition(", cosines ")
    assert said == "384 dimensions"
    other, same = map(float, cosines.split(", "))
    assert same > 0.5 > other  # the second document asks the query's question
