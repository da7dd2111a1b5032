"""The loop itself: the best validation wins, also after the run folder was moved; what is decayed; what diverges."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, EvalPrediction

from training.loop import PlannedTrainer, checkpoint_step, newest_checkpoint, train_loop
from training.progress import Diverged, ProgressReport, TrainLog, read_log
from training.recipe import Train
from training.task import Batch, Row, Task

pytestmark = pytest.mark.integration
SETTINGS = Train(learning_rate=1e-3, steps=20, warmup_steps=2, batch_size=4, validate_every=5)


def tiny_task(values: Iterator[float]) -> Task:
    """Eight rows on a one-layer BERT, judged as `values` say."""
    torch.manual_seed(1)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertForSequenceClassification(BertConfig(**shape, vocab_size=20, num_labels=2))

    def collate(rows: list[Row]) -> Batch:
        return {"input_ids": torch.tensor([row["ids"] for row in rows]), "labels": torch.tensor([0] * len(rows))}

    def judge(prediction: EvalPrediction) -> dict[str, float]:
        return {"quality": next(values)}

    rows = [{"ids": [number] * 4} for number in range(8)]
    return Task(model, None, rows, rows, lambda row: 4, collate, "quality", True, judge)  # type: ignore[arg-type]


def report_into(folder: Path) -> ProgressReport:
    folder.mkdir(exist_ok=True)
    return ProgressReport(TrainLog(folder / "log.jsonl", 0), terminal=False)


def test_the_best_validation_wins_also_in_a_moved_folder(tmp_path: Path) -> None:
    task = tiny_task(iter([0.2, 0.9, 0.5, 0.4]))
    best = train_loop(task, SETTINGS, 7, tmp_path / "a", report_into(tmp_path / "a"))
    assert (best["step"], best["value"]) == (10, 0.9)
    won = {name: value.clone() for name, value in task.model.state_dict().items()}
    # The best and the newest are kept.
    assert sorted(path.name for path in (tmp_path / "a").glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-20"]

    (tmp_path / "a").rename(tmp_path / "b")
    again = tiny_task(iter([]))
    assert checkpoint_step(tmp_path / "b") == 20
    assert train_loop(again, SETTINGS, 7, tmp_path / "b", report_into(tmp_path / "b"))["step"] == 10
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, won[name]), name


def test_a_last_validation_comes_at_the_end_whatever_the_interval(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"steps": 7})
    train_loop(tiny_task(iter([0.1, 0.2])), settings, 7, tmp_path, report_into(tmp_path))
    entries = read_log(tmp_path / "log.jsonl")
    assert [entry["step"] for entry in entries if "valid_quality" in entry] == [5, 7]


def test_checkpoints_cut_off_by_a_kill_are_deleted(tmp_path: Path) -> None:
    for step, state in ((5, '{"best": 1}'), (10, '{"best"'), (15, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state:
            (tmp_path / f"checkpoint-{step}/trainer_state.json").write_text(state)
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-5"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]
    assert checkpoint_step(tmp_path / "nothing") == 0


def test_biases_and_norms_do_not_decay(tmp_path: Path) -> None:
    from transformers import TrainingArguments

    arguments = TrainingArguments(output_dir=str(tmp_path), weight_decay=0.3, report_to="none", use_cpu=True)
    trainer = PlannedTrainer(tiny_task(iter([])), SETTINGS, 7, arguments)
    optimizer = trainer.create_optimizer()
    decayed, others = ([tuple(p.shape) for p in group["params"]] for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    assert all(len(shape) == 2 for shape in decayed)
    assert all(len(shape) == 1 for shape in others)


def test_a_loss_that_is_no_number_ends_the_run_and_says_what_to_change(tmp_path: Path) -> None:
    task = tiny_task(iter([0.1] * 9))
    with torch.no_grad():
        task.model.classifier.weight.fill_(float("nan"))
    with pytest.raises(Diverged, match=r"nan at step 1: .*train\.learning_rate"):
        train_loop(task, SETTINGS, 7, tmp_path, report_into(tmp_path))


def test_in_bf16_the_weights_stay_fp32_and_the_figures_near(tmp_path: Path) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        task = tiny_task(iter([0.1] * 9))
        settings = SETTINGS.model_copy(update={"precision": precision})
        train_loop(task, settings, 7, tmp_path / precision, report_into(tmp_path / precision))
        assert {parameter.dtype for parameter in task.model.parameters()} == {torch.float32}
        losses[precision] = [entry["loss"] for entry in read_log(tmp_path / precision / "log.jsonl") if "loss" in entry]
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], abs=0.05)
