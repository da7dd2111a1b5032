"""The train log survives kills and counts its seconds on; the curves are drawn from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.curves import draw_curves
from training.progress import TrainLog, read_log

pytestmark = pytest.mark.unit


def test_what_a_killed_run_logged_past_its_checkpoint_is_taken_out(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(
        '{"step": 10, "loss": 1.0, "lr": 0.1, "seconds": 4.0}\n'
        '{"step": 20, "valid_loss": 0.9, "seconds": 100.0}\n'
        '{"step": 25, "loss": 0.8, "lr": 0.1, "seconds": 120.0}\n'
        '{"step": 30, "lo'
    )
    log = TrainLog(path, 20)
    log.write({"step": 21, "loss": 0.7, "lr": 0.1})
    assert [entry["step"] for entry in read_log(path)] == [10, 20, 21]
    assert read_log(path)[-1]["seconds"] >= 100


def test_a_run_that_begins_begins_an_empty_log(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 10, "loss": 1.0, "lr": 0.1, "seconds": 4.0}\n')
    assert TrainLog(path, 0).seconds < 4
    assert read_log(path) == []
    assert read_log(tmp_path / "none.jsonl") == []


def test_curves_are_a_picture_whatever_is_in_the_log(tmp_path: Path) -> None:
    entries = [{"step": step, "loss": 1 / step, "lr": 1e-4, "seconds": step} for step in range(1, 9)]
    matching = [*entries, {"step": 4, "valid_loss": 0.5, "valid_average_precision": 0.7, "seconds": 4}]
    for name, given in (("m", matching), ("g", [*entries, {"step": 4, "valid_loss": 0.5}]), ("e", [])):
        draw_curves(given, tmp_path / f"{name}.png", name)
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
