"""The search: spaces that a recipe refuses, grids, draws that do not depend on when a search was stopped, retries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from records.document import DocumentError, check_document
from training.recipe import Recipe
from training.run_folder import RunRefused
from training.tuning.report import summary, write_comparison, write_report
from training.tuning.search import Search, write_best
from training.tuning.settings import Tune
from training.tuning.space import applied, check_space, decoded, grid, max_validations
from training.tuning.study import Study

pytestmark = pytest.mark.unit
RECIPE = Recipe.model_validate(
    {
        "name": "m",
        "model": {"kind": "matching"},
        "data": {"train": "a", "valid": "b", "test": "c"},
        "train": {"steps": 100, "validate_every": 10},
    }
)
RATE = {"type": "float", "low": 1e-5, "high": 1e-3, "log": True}
BATCH = {"type": "choice", "values": [8, 16]}
SPACE: dict[str, Any] = {"train.learning_rate": RATE, "train.batch_size": BATCH}


def tune(**changed: Any) -> Tune:
    return check_document({"space": SPACE, "trials": 8} | changed, Tune, "tune")


def study(folder: Path, settings: Tune, better: str = "higher", **depends_on: Any) -> Study:
    return Study(folder, settings, {"seed": 7} | depends_on, better, 10)


def drawn(search: Study, count: int) -> list[dict[str, Any]]:
    """The points of the next `count` trials, each trained to its end."""
    points = []
    for _ in range(count):
        trial = search.ask()
        assert trial is not None
        points.append(trial.params)
        search.complete(trial.number, trial.params["train.learning_rate"])
    return points


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"trials": None}, "a search needs an end: give trials, time_s or both"),
        ({"sampler": "grid"}, r"grid needs a finite space, and train\.learning_rate has no end of values"),
        ({"sampler": "tpee"}, "'grid', 'random', 'tpe' or 'gp'"),
        ({"trails": 3}, "did you mean 'trials'"),
        ({"space": {}}, "at least 1 item"),
        ({"space": {"train.steps": {"type": "int", "low": 9, "high": 3}}}, "low 9 must be below high 3"),
        ({"space": {"train.learning_rate": RATE | {"low": 0}}}, "a log range begins above 0"),
        ({"space": {"train.steps": {"type": "int", "low": 1, "high": 9, "log": True, "step": 2}}}, "log and step"),
    ],
)
def test_what_is_no_search_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        tune(**changed)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"train.learnin_rate": RATE}, r"unknown key 'train\.learnin_rate'; did you mean 'train\.learning_rate'\?"),
        ({"learning_rate": RATE}, r"did you mean 'train\.learning_rate'\?"),
        ({"data.train": {"type": "choice", "values": ["a", "b"]}}, r"'data\.train' may not be searched"),
        ({"train.learning_rate": {"type": "float", "low": 0, "high": 1}}, r"train\.learning_rate: .*greater than 0"),
        ({"train.batch_size": {"type": "float", "low": 8, "high": 32}}, r"train\.batch_size: .*integer"),
        ({"model.architecture": {"type": "choice", "values": ["cross-encoder", "gpt2"]}}, "it is one for generation"),
        (
            {
                "train.warmup_steps": {"type": "int", "low": 5, "high": 80},
                "train.steps": {"type": "int", "low": 50, "high": 99},
            },
            r"warmup_steps 80 must be below steps 50\n\(of train\.warmup_steps=80, train\.steps=50; narrow",
        ),
    ],
)  # fmt: skip
def test_a_space_that_the_recipe_refuses_is_refused_before_any_trial(space: dict[str, Any], message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        check_space(RECIPE, tune(space=space))


def test_a_pruner_needs_validations_to_prune_at() -> None:
    check_space(RECIPE, tune(pruner="hyperband"))
    assert max_validations(RECIPE, tune()) == 10
    seldom = applied(RECIPE, {"train.validate_every": 50})
    with pytest.raises(DocumentError, match=r"hyperband needs at least 3 validations a trial, .* gives 2"):
        check_space(seldom, tune(pruner="hyperband"))


def test_values_go_where_the_keys_say_and_nowhere_else() -> None:
    settings = tune(space=SPACE | {"model.base": {"type": "choice", "values": ["x", "y"]}})
    made = applied(RECIPE, decoded(settings, {"train.batch_size": 16, "model.base": "y"}))
    assert (made.train.batch_size, made.model.base, made.train.steps) == (16, "y", 100)
    assert made.model_dump(exclude={"train", "model"}) == RECIPE.model_dump(exclude={"train", "model"})


def test_lists_can_be_chosen() -> None:
    settings = tune(space={"model.widths": {"type": "choice", "values": [[2, 3], [3, 4, 5]]}})
    (first, second) = grid(settings)
    assert [decoded(settings, point)["model.widths"] for point in (first, second)] == [[2, 3], [3, 4, 5]]


def test_a_grid_is_tried_whole_each_point_once_also_after_a_kill(tmp_path: Path) -> None:
    steps = {"type": "float", "low": 0.1, "high": 0.3, "step": 0.1}
    settings = tune(space={"train.learning_rate": steps, "train.batch_size": BATCH}, sampler="grid", trials=None)
    assert len(grid(settings)) == 6
    assert {point["train.learning_rate"] for point in grid(settings)} == {0.1, 0.2, 0.3}  # not 0.30000000000000004
    begun = drawn(study(tmp_path, settings), 2)
    again = study(tmp_path, settings)
    cut_off = again.ask()
    assert cut_off is not None
    resumed = study(tmp_path, settings)
    assert resumed.recover() == [cut_off.number]
    points = begun + drawn(resumed, 4)
    assert resumed.ask() is None
    assert sorted(points, key=str) == sorted(grid(settings), key=str)


@pytest.mark.parametrize("sampler", ["random", "tpe", "gp"])
def test_a_search_that_was_stopped_draws_what_it_would_have_drawn(tmp_path: Path, sampler: str) -> None:
    settings = tune(sampler=sampler, startup_trials=2)
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = drawn(study(tmp_path / "whole", settings), 5)
    stopped = drawn(study(tmp_path / "stopped", settings), 3)
    stopped += drawn(study(tmp_path / "stopped", settings), 2)
    assert stopped == whole
    assert len({str(point) for point in whole}) > 3


def test_a_search_goes_on_only_as_itself_but_with_any_budget(tmp_path: Path) -> None:
    drawn(study(tmp_path, tune(trials=1)), 1)
    assert study(tmp_path, tune(trials=1)).ask() is None
    assert study(tmp_path, tune(trials=2)).ask() is not None
    with pytest.raises(RunRefused, match="seed: was 7, is 8"):
        study(tmp_path, tune(), seed=8)


def test_a_point_whose_worker_dies_is_tried_once_more_and_then_given_up(tmp_path: Path) -> None:
    search = study(tmp_path, tune(trials=1))
    first = search.ask()
    assert first is not None
    search.killed(first.number)
    second = search.ask()
    assert second is not None
    assert second.params == first.params
    search.killed(second.number)
    assert search.ask() is None
    states = [(trial.state, trial.user_attrs["reason"]) for trial in search.trials]
    assert states == [(TrialState.FAIL, "its worker was killed")] * 2


def test_a_search_that_is_stopped_often_gives_no_point_up(tmp_path: Path) -> None:
    params = []
    for _ in range(4):
        search = study(tmp_path, tune(trials=1))
        search.recover()
        trial = search.ask()
        assert trial is not None
        params.append(trial.params)
    assert params == params[:1] * 4


def test_a_line_that_a_kill_cut_off_does_not_spoil_the_journal(tmp_path: Path) -> None:
    drawn(study(tmp_path, tune()), 2)
    with (tmp_path / "journal.log").open("ab") as journal:
        journal.write(b'{"op_code": 4, "wor')
    search = study(tmp_path, tune())
    assert len(search.trials) == 2
    drawn(search, 1)
    assert len(study(tmp_path, tune()).trials) == 3


def test_hyperband_ends_what_does_badly_early(tmp_path: Path) -> None:
    search = study(tmp_path, tune(sampler="random", pruner="hyperband", trials=30))
    ended = {}
    for _ in range(30):
        trial = search.ask()
        assert trial is not None
        quality = trial.params["train.learning_rate"]
        ended[trial.number] = next(
            (step for step in range(1, 10) if search.report(trial, step, quality * (step + 10))), 10
        )
        if ended[trial.number] == 10:
            search.complete(trial.number, quality * 20)
        else:
            search.pruned(trial.number)
    early = [number for number, steps in ended.items() if steps < 10]
    assert len(early) > 10
    assert search.best is not None
    best = search.best.params["train.learning_rate"]
    assert best == max(trial.params["train.learning_rate"] for trial in search.trials)


def test_the_report_and_the_comparison_show_what_was_found(tmp_path: Path) -> None:
    done = []
    for sampler in ("random", "tpe"):
        settings = tune(sampler=sampler)
        folder = tmp_path / settings.method
        (folder / "trials").mkdir(parents=True)
        search = study(folder, settings, better="lower")
        for number in range(8):
            trial = search.ask()
            assert trial is not None
            trial.set_user_attr("threads", None)
            for step in (1, 2, 3):
                search.report(trial, step, trial.params["train.learning_rate"] / step)
            if number == 3:
                search.failed(trial, "ValueError: <b>no</b>")
            else:
                search.complete(trial.number, trial.params["train.learning_rate"])
        best = write_best(RECIPE, search, folder, "loss")
        done.append(Search(folder, search, "loss", best))
        page = write_report(done[-1], "m").read_text(encoding="utf-8")
        assert page.count("<svg") == 4  # history, curves, importances, parallel coordinates
        assert "ValueError: &lt;b&gt;no&lt;/b&gt;" in page
        found = summary(done[-1])
        ended = [trial["value"] for trial in found["trials"] if trial["value"] is not None]
        assert found["best"]["value"] == min(ended)
        assert sum(found["importances"].values()) == pytest.approx(1)
    page = write_comparison(done, tmp_path, "m").read_text(encoding="utf-8")
    assert "random" in page
    assert "Budget of each: 8 trials" in page


def test_the_best_is_a_recipe_that_names_its_trial(tmp_path: Path) -> None:
    from records.document import read_document

    search = study(tmp_path, tune(workers=2), better="lower")
    trial = search.ask()
    assert trial is not None
    assert write_best(RECIPE, search, tmp_path, "loss") is None
    trial.set_user_attr("threads", 3)
    search.complete(trial.number, 0.25)
    path = write_best(RECIPE, search, tmp_path, "loss")
    assert path is not None
    recipe = read_document(path, Recipe)
    assert recipe.train.learning_rate == trial.params["train.learning_rate"]  # to the last digit
    assert (recipe.name, recipe.train.threads, recipe.tune) == ("m-best", 3, None)
    assert "trial 0, loss 0.25000" in path.read_text(encoding="utf-8").splitlines()[0]
