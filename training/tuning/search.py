"""A search from its folder to its best recipe: asks the study, keeps the workers busy, writes down what came of it."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from optuna.trial import Trial
from tqdm import tqdm

from training.data.splits import load_splits
from training.recipe import Recipe
from training.run_folder import TRAINER
from training.run_record import read_record, write_record
from training.train import depends
from training.tuning.settings import Tune
from training.tuning.space import applied, check_space, decoded, max_validations
from training.tuning.study import Study
from training.tuning.trial import objective
from training.tuning.workers import Ended, Validation, Worker, Workers

BEST_FILE, TRIALS = "best.yaml", "trials"
POLL_S = 1.0  # how soon a time budget is noticed


@dataclass(frozen=True, slots=True)
class Search:
    """A search that has ended, or stopped. `figure`: what the trials' values are."""

    folder: Path
    study: Study
    figure: str
    best: Path | None  # the recipe


def folder_of(recipe: Recipe, tune: Tune) -> Path:
    """Where the search of this recipe by this method lies."""
    return recipe.run / "tune" / tune.method


def search(recipe: Recipe, tune: Tune, *, fresh: bool = False) -> Search:
    """Search, or go on searching, until the budget is used up; the caller holds the folder's lock.

    Raises DocumentError (the space), RunRefused, DataError, SluiceError; KeyboardInterrupt once all is written down.
    """
    check_space(recipe, tune)
    folder = folder_of(recipe, tune)
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    (folder / TRIALS).mkdir(parents=True, exist_ok=True)
    figure, higher = objective(recipe, tune)
    settings = tune.model_dump(mode="json", exclude={"trials", "time_s", "workers"})
    depends_on = depends(recipe, load_splits(recipe))[0] | {f"tune.{key}": value for key, value in settings.items()}
    study = Study(folder, tune, depends_on, "higher" if higher else "lower", max_validations(recipe, tune))
    loop = _Loop(recipe, study, folder, figure, Workers(recipe, (figure, higher), tune.workers))
    for number in study.recover():
        loop.mark_failed(number)
    try:
        loop.run()
    finally:
        loop.close()
        best = write_best(recipe, study, folder, figure)
    return Search(folder, study, figure, best)


def write_best(recipe: Recipe, study: Study, folder: Path, figure: str) -> Path | None:
    """The best trial as a recipe of its own; None where no trial was trained to its end."""
    best = study.best
    if best is None:
        return None
    given = {"name": f"{recipe.name}-best", "runs": str(recipe.runs)}
    chosen = trial_recipe(recipe, study.tune, best.params, given, best.user_attrs["threads"])
    path = folder / BEST_FILE
    head = (
        f"# The best of {len(study.trials)} trials over {recipe.name} by {study.tune.method}: trial {best.number}, "
        f"{figure} {best.value:.5f} on valid.\n#   python -m training train {path}\n"
    )
    settings = chosen.model_dump(mode="json", exclude_unset=True)
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(head + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return temporary.replace(path)


def trial_recipe(
    recipe: Recipe, tune: Tune, params: dict[str, Any], given: dict[str, Any], threads: int | None
) -> Recipe:
    """The recipe with a trial's point and what else is `given`."""
    settled = {"train.threads": threads} if threads is not None else {}
    return applied(recipe, given | settled | decoded(tune, params))


def share_of_cores(recipe: Recipe, tune: Tune) -> int | None:
    """Threads of a trial. Several workers divide the cores, and the figures of a trial are those of as many threads."""
    if tune.workers == 1 or recipe.train.threads is not None:
        return recipe.train.threads
    return max(1, len(os.sched_getaffinity(0)) // tune.workers)


class _Loop:
    def __init__(self, recipe: Recipe, study: Study, folder: Path, figure: str, workers: Workers) -> None:
        self._recipe, self._study, self._folder, self._figure = recipe, study, folder, figure
        self._workers = workers
        self._before_s = study.spent_s
        self._begun = time.monotonic()
        self._started: dict[int, float] = {}
        self._bar = tqdm(
            total=study.tune.trials, initial=study.counted(), desc="tune", unit="trial", disable=not sys.stderr.isatty()
        )

    @property
    def _spent_s(self) -> float:
        return self._before_s + time.monotonic() - self._begun

    @property
    def _is_over(self) -> bool:
        return self._study.tune.time_s is not None and self._spent_s >= self._study.tune.time_s

    def run(self) -> None:
        """Until the budget is used up; a trial whose worker dies gives its point back to it."""
        while True:
            while self._workers.has_room and not self._is_over and (trial := self._study.ask()) is not None:
                self._start(trial)
            if not self._workers.running:
                return
            for worker, event in self._workers.events(POLL_S):
                self._take(worker, event)

    def close(self) -> None:
        """Stop the workers; what they were at is begun again when the search goes on."""
        interrupted = [trial.number for trial in self._workers.running]
        self._workers.close()
        for number in interrupted:
            self._study.interrupted(number)
            self.mark_failed(number)
        self._study.spend(self._spent_s)
        self._bar.close()

    def mark_failed(self, number: int) -> None:
        """Write into the run folder of a trial whose worker was killed what its worker could not."""
        run = self._folder / TRIALS / f"{number:04d}"
        record = read_record(run)
        if record is not None and record.status == "running":
            write_record(run, record.model_copy(update={"status": "failed"}))
        shutil.rmtree(run / TRAINER, ignore_errors=True)

    def _start(self, trial: Trial) -> None:
        tune = self._study.tune
        given = {"name": f"{trial.number:04d}", "runs": str(self._folder / TRIALS)}
        threads = share_of_cores(self._recipe, tune)
        recipe = trial_recipe(self._recipe, tune, trial.params, given, threads)
        trial.set_user_attr("seed", recipe.seed)
        trial.set_user_attr("threads", threads)
        self._started[trial.number] = time.monotonic()
        self._workers.start(trial, recipe)

    def _take(self, worker: Worker, event: Validation | Ended) -> None:
        trial: Trial = worker.trial
        if isinstance(event, Validation):
            pruned = math.isfinite(event.value) and self._study.report(trial, event.step, event.value)
            self._workers.answer(worker, not pruned and not self._is_over)
            return
        seconds = time.monotonic() - self._started[trial.number]
        if event.status != "killed":
            trial.set_user_attr("seconds", round(seconds, 1))
        if event.status == "finished":
            assert event.value is not None
            self._study.complete(trial.number, event.value)
            write_best(self._recipe, self._study, self._folder, self._figure)
        elif event.status == "pruned":
            self._study.pruned(trial.number)
        elif event.status == "failed":
            self._study.failed(trial, event.reason or "")
        else:
            self._study.killed(trial.number)
            self.mark_failed(trial.number)
        self._workers.free(worker)
        self._study.spend(self._spent_s)
        self._tell(trial, event, seconds)

    def _tell(self, trial: Trial, event: Ended, seconds: float) -> None:
        best = self._study.best
        parts = [f"trial {trial.number} {event.status}"]
        if event.value is not None:
            parts.append(f"{self._figure} {event.value:.4f}")
        if best is not None:
            parts.append(f"best {best.value:.4f} (trial {best.number})")
        parts.append(", ".join(f"{key}={_short(value)}" for key, value in trial.params.items()))
        if event.reason:
            parts.append(event.reason)
        self._bar.update(self._study.counted() - self._bar.n)
        self._bar.write("  ".join([*parts, f"{seconds:.0f} s"]), file=sys.stdout)
        sys.stdout.flush()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
