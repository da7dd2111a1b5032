"""One trial, in the process that trains it: the recipe as `train` would have it, without artifact and without test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.data.splits import Splits
from training.progress import TrainLog
from training.recipe import Recipe
from training.run_folder import LOG_FILE, TENSORBOARD, TRAINER, begin
from training.run_record import TrainRecord, Usage, write_record
from training.scalars import Scalars
from training.task import chosen_by
from training.train import depends, fit, on_this_machine, prepare, with_threads
from training.tuning.settings import Tune
from training.usage import Meter

# (validation, counted from 1; its figure) -> whether the trial goes on
Report = Callable[[int, float], bool]


class Pruned(Exception):
    """The trial is not worth its time."""


class Reporter(TrainerCallback):
    """Reports the searched figure of each validation. Raises Pruned when the answer is to stop."""

    def __init__(self, figure: str, report: Report) -> None:
        self._figure = f"eval_{figure}"
        self._report = report
        self.values: list[float] = []

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> None:
        """A validation came in. That of the last step is not asked about: nothing is left to save."""
        self.values.append(float(metrics[self._figure]))
        if not self._report(len(self.values), self.values[-1]) and state.global_step < state.max_steps:
            raise Pruned


def objective(recipe: Recipe, tune: Tune) -> tuple[str, bool]:
    """The figure of valid that is searched for, and whether more is better."""
    return chosen_by(recipe.model.kind) if tune.optimise == "metric" else ("loss", False)


def run_trial(recipe: Recipe, splits: Splits, figure: tuple[str, bool], report: Report) -> tuple[TrainRecord, float]:
    """Train `recipe` in its run folder; its record, and the best `figure` of all validations.

    Raises Pruned, Diverged, SluiceError, ValueError; the record says how it ended.
    """
    recipe = on_this_machine(recipe)
    run = recipe.run
    run.mkdir(parents=True, exist_ok=True)
    with with_threads(recipe.train.threads):
        depends_on, base = depends(recipe, splits)
        record = begin(recipe, None, depends_on)
        write_record(run, record)
        scalars = Scalars(run / TENSORBOARD, record.started)
        meter = Meter(Usage())
        name, higher = figure
        reporter = Reporter(name, report)
        status = "failed"
        log = None
        try:
            with meter.stage("prepare"):
                task = prepare(recipe, splits, base)
            log = TrainLog(run / LOG_FILE, 0, (scalars,))
            best = fit(recipe, task, log, meter, callbacks=[reporter], checkpoints=False)
            record = record.model_copy(update={"best": best})
            status = "finished"
        except Pruned:
            status = "pruned"
            raise
        finally:
            scalars.close()
            shutil.rmtree(run / TRAINER, ignore_errors=True)
            seconds = round(log.seconds, 1) if log else None
            record = record.model_copy(update={"status": status, "usage": meter.usage, "seconds": seconds})
            write_record(run, record)
    return record, max(reporter.values) if higher else min(reporter.values)
