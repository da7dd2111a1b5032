"""The training loop: transformers' Trainer with our batch plan, stopped and resumed without a trace.

AdamW (no decay on biases and norms), cosine schedule with warm-up, gradient clipping, a validation and a checkpoint
every N steps, the best checkpoint's weights at the end.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments

from training.batches import plan_batches, sorted_batches
from training.progress import ProgressReport
from training.recipe import Train
from training.task import Row, Task
from training.usage import Meter

LOGGED_LINES = 100  # about how many training losses a run logs
# Trainer writes trainer_state.json last, so a checkpoint that has a whole one is whole.
STATE_FILE = "trainer_state.json"


class PlannedTrainer(Trainer):
    """Trainer whose batches are planned ahead for the whole run, so that "epoch" means the run itself.

    A checkpoint at step n then resumes with batch n + 1 of the plan.
    """

    def __init__(self, task: Task, settings: Train, seed: int, arguments: TrainingArguments) -> None:
        super().__init__(
            model=task.model,
            args=arguments,
            train_dataset=_Rows(task.train),
            eval_dataset=_Rows(task.valid),
            data_collator=task.collate,
            compute_metrics=task.judge,
        )
        self._loss, self._rates = task.loss, task.rates
        self.lengths = [task.length(row) for row in task.train]  # tokens
        self.plan = plan_batches(self.lengths, settings.batch_size, settings.steps, seed, task.groups)
        self._valid_plan = sorted_batches([task.length(row) for row in task.valid], settings.batch_size)
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)

    def compute_loss(
        self, model: torch.nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The task's own loss where it has one."""
        if self._loss is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss, outputs = self._loss(model, inputs)
        return (loss, {"loss": loss, "logits": outputs}) if return_outputs else loss

    def prediction_step(self, model: torch.nn.Module, inputs: Any, *arguments: Any, **settings: Any) -> Any:
        """A validation batch's loss, which may be left to the task's judge, predictions and labels."""
        if self._loss is None:
            return super().prediction_step(model, inputs, *arguments, **settings)
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            loss, outputs = self._loss(model, inputs)
        return loss, outputs, inputs["labels"]

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Trainer's, with a group of its own for each parameter whose learning rate is another."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        for name, multiple in self._rates.items():
            parameter = self.model.get_parameter(name)
            for group in [*optimizer.param_groups]:
                others = [each for each in group["params"] if each is not parameter]
                if len(others) < len(group["params"]):
                    group["params"] = others
                    optimizer.add_param_group({**group, "params": [parameter], "lr": group["lr"] * multiple})
        return optimizer

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The planned batches."""
        return self._loader(self.train_dataset, self.plan)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Every row of valid, sorted by length."""
        return self._loader(self.eval_dataset, self._valid_plan)

    def _loader(self, rows: Any, batches: list[list[int]]) -> DataLoader[Any]:
        pinned = self.args.dataloader_pin_memory
        loader = DataLoader(rows, batch_sampler=batches, collate_fn=self.data_collator, pin_memory=pinned)
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared


class _Rows(Dataset[Row]):
    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        return self._rows[index]


def train_loop(
    task: Task,
    settings: Train,
    seed: int,
    folder: Path,
    report: ProgressReport,
    *,
    meter: Meter | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    checkpoints: bool = True,
) -> dict[str, Any]:
    """Train `task.model` in place, to the weights of its best validation; checkpoints go to `folder`.

    Continues after the newest whole checkpoint there. Without `checkpoints` the weights end as the last step left them.
    Returns {"step", "metric", "value"} of the best validation. Raises progress.Diverged, and what `callbacks` raise.
    """
    on_gpu = torch.cuda.is_available()
    bf16 = on_gpu and torch.cuda.is_bf16_supported() if settings.precision is None else settings.precision == "bf16"
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup,
        optim="adamw_torch_fused",
        use_cpu=not on_gpu,  # said, because bf16 is refused there otherwise
        bf16=bf16,  # autocast: weights and optimizer stay fp32
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.gradient_clip,
        eval_strategy="steps",
        eval_steps=settings.validate_every,
        save_strategy="steps" if checkpoints else "no",
        save_steps=settings.validate_every,
        save_total_limit=2,  # the best and the newest
        load_best_model_at_end=checkpoints,
        metric_for_best_model=task.best,
        greater_is_better=task.higher_is_better,
        logging_steps=max(1, settings.steps // LOGGED_LINES),
        logging_nan_inf_filter=False,  # it would hide a training that diverges
        prediction_loss_only=task.judge is None,
        label_names=["labels"],
        seed=seed,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
    )
    trainer = PlannedTrainer(task, settings, seed, arguments)
    if meter is not None:
        meter.plan(trainer.lengths, trainer.plan)
    for callback in (meter, report, *callbacks):
        if callback is not None:
            trainer.add_callback(callback)
    newest = newest_checkpoint(folder)
    if newest:
        _relocate_best(newest)
    trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    return {
        "step": trainer.state.best_global_step,
        "metric": task.best,
        "value": trainer.state.best_metric,
    }


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; those cut off by a kill are deleted."""
    for path in sorted(folder.glob("checkpoint-*"), key=_step, reverse=True):
        try:
            json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            shutil.rmtree(path)
            continue
        return path
    return None


def checkpoint_step(folder: Path) -> int:
    """The step that a run in `folder` would continue after; 0 where it would begin."""
    newest = newest_checkpoint(folder)
    return _step(newest) if newest else 0


def _relocate_best(checkpoint: Path) -> None:
    """Point the checkpoint to the best one beside it: Trainer notes the full path, and run folders are moved."""
    path = checkpoint / STATE_FILE
    state = json.loads(path.read_text(encoding="utf-8"))
    state["best_model_checkpoint"] = str(checkpoint.with_name(Path(state["best_model_checkpoint"]).name))
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(state, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(path)


def _step(path: Path) -> int:
    return int(path.name.rpartition("-")[2])
