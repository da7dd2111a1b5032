"""One search on Optuna, kept in a journal file: what to try next, what came of it. Knows no model and no process.

One process writes it, the one that holds the folder's lock; workers report to that process. Optuna recommends the
journal where several processes of one machine share a study, and SQLite for none that write at once; here it is also
the format in which a write that a kill cut off is an unfinished last line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from training.run_folder import RunRefused
from training.run_record import changes
from training.tuning.settings import FloatRange, IntRange, Range, Tune
from training.tuning.space import grid

JOURNAL = "journal.log"
MAX_KILLS = 2  # a point whose worker died this often is given up


class Study:
    """A search in `folder`. `depends_on`: what trials must share to compare. `best`: the figure, and whether more is
    better. Raises RunRefused when the folder's search depends on something else."""

    def __init__(
        self, folder: Path, tune: Tune, depends_on: Mapping[str, Any], better: str, max_validations: int
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        _mend(folder / JOURNAL)
        self.tune = tune
        self._grid = _shuffled(grid(tune), tune.seed) if tune.sampler == "grid" else []
        self.distributions = {key: _distribution(values) for key, values in tune.space.items()}
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL)))
        self._study = optuna.create_study(
            study_name=tune.method,
            storage=storage,
            direction="maximize" if better == "higher" else "minimize",
            pruner=_pruner(tune, max_validations),
            load_if_exists=True,
        )
        begun_with = self._study.user_attrs.get("depends_on")
        if begun_with is None:
            self._study.set_user_attr("depends_on", dict(depends_on))
        elif different := changes(begun_with, depends_on):
            listed = "\n".join(f"  {change}" for change in different)
            raise RunRefused(
                f"{folder} holds a search over another recipe or data:\n{listed}\n"
                "Put it back, give the recipe another name=…, or start over with --fresh, which deletes it."
            )

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, in order."""
        return self._study.get_trials(deepcopy=False)

    @property
    def optuna(self) -> optuna.Study:
        """The study itself, for what Optuna computes of it."""
        return self._study

    @property
    def best(self) -> FrozenTrial | None:
        """The best trial that was trained to its end."""
        try:
            return self._study.best_trial
        except ValueError:
            return None

    @property
    def higher_is_better(self) -> bool:
        """Of the trials' values."""
        return self._study.direction == optuna.study.StudyDirection.MAXIMIZE

    @property
    def spent_s(self) -> float:
        """Seconds searched, in all sessions."""
        return float(self._study.user_attrs.get("spent_s", 0.0))

    def spend(self, spent_s: float) -> None:
        """Note the seconds searched so far."""
        self._study.set_user_attr("spent_s", round(spent_s, 1))

    def counted(self) -> int:
        """Trials that the budget counts: all but those whose worker died and that were, or will be, begun again."""
        return sum("retried" not in trial.user_attrs for trial in self.trials)

    def ask(self) -> Trial | None:
        """The next trial; None when the budget of trials, or the grid, is used up.

        Trial number n is drawn with a seed of its own, so that a search which was stopped draws what it would have
        drawn, given the same results before.
        """
        waiting = any(trial.state == TrialState.WAITING for trial in self.trials)
        if not waiting:
            if self.tune.trials is not None and self.counted() >= self.tune.trials:
                return None
            if self.tune.sampler == "grid":
                # Not by Optuna's GridSampler: it ends its own loop, which ask and tell do not have.
                tried = [trial.params for trial in self.trials if "retried" not in trial.user_attrs]
                left = [point for point in self._grid if point not in tried]
                if not left:
                    return None
                self._study.enqueue_trial(left[0])
        seed = int(np.random.SeedSequence([self.tune.seed, len(self.trials)]).generate_state(1)[0])
        self._study.sampler = _sampler(self.tune, seed)
        trial = self._study.ask(self.distributions)
        trial.set_user_attr("sampler_seed", seed)
        return trial

    def report(self, trial: Trial, step: int, value: float) -> bool:
        """A validation of a running trial; True when it should be ended."""
        trial.report(value, step)
        return trial.should_prune()

    def complete(self, number: int, value: float) -> None:
        """The trial was trained to its end."""
        self._study.tell(number, value)

    def pruned(self, number: int) -> None:
        """The trial was ended early."""
        self._study.tell(number, state=TrialState.PRUNED)

    def failed(self, trial: Trial, reason: str) -> None:
        """The trial cannot be trained."""
        trial.set_user_attr("reason", reason)
        self._study.tell(trial.number, state=TrialState.FAIL)

    def killed(self, number: int) -> None:
        """The trial's worker died. Its point is tried again, unless that has happened too often."""
        kills = self.trials[number].user_attrs.get("kills", 0) + 1
        self._end(number, "its worker was killed", kills)

    def interrupted(self, number: int) -> None:
        """The search was stopped in the trial. Its point is tried again."""
        self._end(number, "the search was stopped", self.trials[number].user_attrs.get("kills", 0))

    def recover(self) -> list[int]:
        """Mark as interrupted what an earlier process left running; their numbers."""
        running = [trial.number for trial in self.trials if trial.state == TrialState.RUNNING]
        for number in running:
            self.interrupted(number)
        return running

    def _end(self, number: int, reason: str, kills: int) -> None:
        frozen = self.trials[number]
        trial = Trial(self._study, frozen._trial_id)
        if kills < MAX_KILLS:
            # A kill between these two lines leaves the trial running, and the point is tried twice rather than never.
            self._study.enqueue_trial(frozen.params, user_attrs={"kills": kills})
            trial.set_user_attr("retried", True)
        self.failed(trial, reason)

    def importances(self) -> dict[str, float]:
        """How much of the values' spread each key explains, in sum 1 (PED-ANOVA, arXiv:2304.10255); none for fewer
        than four trials that ended or where all are equally good."""
        done = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        if len(done) < 4:
            return {}
        with contextlib.suppress(ValueError, RuntimeError):
            return dict(optuna.importance.get_param_importances(self._study))
        return {}


def _shuffled(points: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    return [points[index] for index in np.random.default_rng(seed).permutation(len(points))]


def _mend(journal: Path) -> None:
    """Take out the last line where a kill cut it off: the next would be written behind it."""
    if journal.exists():
        whole = journal.read_bytes()
        if not whole.endswith(b"\n"):
            journal.write_bytes(whole[: whole.rfind(b"\n") + 1])


def _distribution(values: Range) -> BaseDistribution:
    if isinstance(values, IntRange):
        return IntDistribution(values.low, values.high, log=values.log, step=values.step)
    if isinstance(values, FloatRange):
        return FloatDistribution(values.low, values.high, log=values.log, step=values.step)
    return CategoricalDistribution(list(values.points or ()))


def _sampler(tune: Tune, seed: int) -> optuna.samplers.BaseSampler:
    if tune.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=tune.startup_trials)
    if tune.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=tune.startup_trials)
    return optuna.samplers.RandomSampler(seed=seed)  # a grid's points are given


def _pruner(tune: Tune, max_validations: int) -> optuna.pruners.BasePruner:
    if tune.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=max_validations, reduction_factor=3)
    if tune.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=4)
    return optuna.pruners.NopPruner()
