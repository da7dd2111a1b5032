"""Stages and throughput of a run; what the record of another machine looks like."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from training.hardware import _cpu_model, this_machine
from training.run_record import Usage
from training.usage import Meter

pytestmark = pytest.mark.unit


def test_rows_and_tokens_are_those_of_the_steps_done_and_throughput_is_over_training_alone(tmp_path: Path) -> None:
    kept: list[Usage] = []
    meter = Meter(Usage(stage_seconds={"train": 10.0, "data": 1.0}, peak_memory_bytes=1 << 60), kept.append)
    meter.plan(lengths=[3, 5, 9], batches=[[0, 1], [2], [0, 2]])
    given = TrainingArguments(output_dir=str(tmp_path), use_cpu=True), TrainerState(global_step=1), TrainerControl()
    meter.on_train_begin(*given)
    meter.on_step_end(*given)
    assert (meter.usage.rows, meter.usage.tokens) == (2, 8)
    given[1].global_step = 2
    meter.on_step_end(*given)
    meter.on_evaluate(*given)
    meter.on_save(*given)
    (usage,) = kept
    assert (usage.rows, usage.tokens) == (3, 17)
    assert usage.stage_seconds.keys() == {"data", "train", "validate", "checkpoint"}
    assert usage.stage_seconds["train"] >= 10.0
    assert usage.rows_per_s == pytest.approx(3 / usage.stage_seconds["train"], rel=0.01)
    assert usage.peak_memory_bytes == 1 << 60  # of the part before, which took more


def test_a_stage_that_fails_is_counted_too() -> None:
    meter = Meter(Usage())
    with pytest.raises(ValueError, match="bad row"), meter.stage("data"):
        raise ValueError("bad row")
    assert "data" in meter.usage.stage_seconds
    assert meter.usage.rows_per_s is None
    assert meter.usage.peak_memory_bytes > 1 << 20


def test_the_machine_is_named(tmp_path: Path) -> None:
    machine = this_machine()
    assert machine.cores >= 1
    assert machine.memory_bytes > 1 << 28
    assert machine.cpu
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nmodel name\t: Other\n")
    assert _cpu_model(tmp_path / "cpuinfo") == "Some CPU @ 3 GHz"
    assert _cpu_model(tmp_path / "none")
