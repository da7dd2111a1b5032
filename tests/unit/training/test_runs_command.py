"""Runs listed and compared: what differs is named, what does not is left out, a damaged record is no traceback."""

from __future__ import annotations

import fcntl
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from training.hardware import Hardware
from training.recipe import Recipe
from training.run_record import TrainRecord, Usage, dependencies, write_record
from training.runs_command import main

pytestmark = pytest.mark.unit
ROWS = {"train": "a" * 64, "valid": "b" * 64, "test": "c" * 64}


def run(folder: Path, name: str, rows: dict[str, str] = ROWS, minute: int = 0, **changed: Any) -> Path:
    """A finished run of 100 steps, but for what is `changed` in its record; its learning rate is the minute's."""
    recipe = Recipe.model_validate(
        {
            "name": name,
            "model": {"kind": "matching"},
            "data": {"train": "a", "valid": "b", "test": "c"},
            "train": {"learning_rate": (minute + 1) * 1e-4},
        }
    )
    record = TrainRecord(
        status="finished",
        recipe=recipe,
        depends_on=dependencies(recipe, rows, "w"),
        versions={"torch": "2"},
        git_commit="abc",
        started=datetime(2026, 1, 1, 0, minute, tzinfo=UTC),
        seconds=12.5,
        best={"step": 50, "metric": "average_precision", "value": 0.5},
        test={"f1": 0.7123, "roc_auc": 0.8},
        hardware=Hardware(cpu="some", cores=2, memory_bytes=1),
        usage=Usage(rows=3200, rows_per_s=256.0, peak_memory_bytes=512 << 20),
    )
    (folder / name).mkdir(parents=True)
    write_record(folder / name, record.model_copy(update=changed))
    return folder / name


def test_runs_are_listed_oldest_first_with_their_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, "late", minute=2)
    run(tmp_path, "early", minute=1)
    (run(tmp_path, "cut", minute=3, status="running", best={}, test={}) / ".lock").touch()
    assert main(["list", str(tmp_path)]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["run", "status", "kind"]
    assert [line.split()[:2] for line in lines] == [["early", "finished"], ["late", "finished"], ["cut", "stopped"]]
    assert "average_precision 0.5000" in lines[0]
    assert "f1 0.7123  roc_auc 0.8000" in lines[0]
    with (tmp_path / "cut/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["list", str(tmp_path), "--json"]) == 0
    assert [each["status"] for each in json.loads(capsys.readouterr().out)] == ["finished", "finished", "running"]


def test_what_differs_between_runs_is_named_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, "one")
    other = run(tmp_path, "two", ROWS | {"train": "d" * 64}, 1, git_commit="def", versions={"torch": "3"})
    assert main(["compare", "one", str(other), "--runs", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["differences"] == {
        "train.learning_rate": [1e-4, 2e-4],
        "rows of data.train": ["a" * 64, "d" * 64],
        "git commit": ["abc", "def"],
        "version of torch": ["2", "3"],
    }
    assert found["figures"]["test f1"] == [0.7123, 0.7123]
    assert found["figures"]["peak memory MiB"] == [512, 512]
    assert main(["compare", "one", "two", "--runs", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "aaaaaaaaaaaa…" in out
    assert main(["compare", "one", "one", "--runs", str(tmp_path)]) == 0
    assert "nothing that counts differs" in capsys.readouterr().out


def test_what_cannot_be_read_is_said_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/train.json").write_text("{")
    assert main(["list", str(tmp_path)]) == 1
    seen = capsys.readouterr()
    assert "good" in seen.out
    assert "bad/train.json cannot be read" in seen.err
    for arguments, message in (
        (["list", str(tmp_path / "none")], "no such folder"),
        (["compare", "good", "nothing", "--runs", str(tmp_path)], "nothing is no run folder"),
        (["compare", "good", "--runs", str(tmp_path)], "two runs or more"),
    ):
        assert main(arguments) == 1
        assert message in capsys.readouterr().err


def test_listing_loads_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, training.runs_command; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
