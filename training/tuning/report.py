"""What a search found: a page for people and JSON for scripts, and several searches side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from training.pages.page import Page, Section
from training.run_record import read_record
from training.tuning.plots import curves, history, importances, parallel, progress
from training.tuning.search import TRIALS, Search

REPORT, COMPARISON = "report", "comparison"
STATES = {
    TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed",
    TrialState.RUNNING: "running", TrialState.WAITING: "waiting",
}  # fmt: skip


def summary(search: Search) -> dict[str, Any]:
    """The search as JSON values."""
    study = search.study
    best = study.best
    return {
        "folder": str(search.folder),
        "method": study.tune.method,
        "figure": search.figure,
        "higher_is_better": study.higher_is_better,
        "settings": study.tune.model_dump(mode="json"),
        "seconds": study.spent_s,
        "best": None if best is None else {"trial": best.number, "value": best.value, "params": best.params},
        "recipe": None if search.best is None else str(search.best),
        "importances": study.importances(),
        "trials": [_described(trial, search.folder) for trial in study.trials],
    }


def write_report(search: Search, name: str) -> Path:
    """`report.html` and `report.json` in the search's folder; returns the page."""
    found = summary(search)
    page = Page(f"Tuning {name}", _subtitle(found))
    overview = page.section("Result")
    _result(overview, found)
    ended = [trial for trial in found["trials"] if trial["validations"]]
    if ended:
        _plots(page, search, found, ended)
    _table(page.section("Trials"), found)
    (search.folder / f"{REPORT}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return page.write(search.folder / f"{REPORT}.html")


def write_comparison(searches: Sequence[Search], folder: Path, name: str) -> Path:
    """`comparison.html` and `comparison.json` in `folder`: what each method found for the same budget."""
    found = [summary(search) for search in searches]
    figure, higher = found[0]["figure"], found[0]["higher_is_better"]
    tune = searches[0].study.tune
    limits = [f"{tune.trials} trials"] if tune.trials else []
    limits += [f"{tune.time_s:g} s"] if tune.time_s else []
    page = Page(f"Tuning {name}: {len(found)} methods", f"Budget of each: {' and '.join(limits) or 'the whole grid'}")
    section = page.section("Best for the same budget")
    rows = []
    for each in found:
        states = [trial["status"] for trial in each["trials"]]
        best = each["best"] or {"value": None, "trial": None}
        counts = [states.count(status) for status in ("finished", "pruned", "failed")]
        rows.append([each["method"], best["value"], best["trial"], *counts, _rows_trained(each), each["seconds"]])
    order = sorted(rows, key=lambda row: float("inf") if row[1] is None else -row[1] if higher else row[1])
    head = ("method", f"best {figure}", "of trial", "finished", "pruned", "failed", "rows trained on", "seconds")
    section.table(head, order)
    section.figure(
        progress(found, higher),
        f"The best {figure} on valid so far, by trials begun (left) and by rows trained on (right). Pruning shows on "
        "the right: trials that end early leave rows for more of them.",
    )
    section.text("One search a method: with another tune.seed the order can be another.")
    (folder / f"{COMPARISON}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return page.write(folder / f"{COMPARISON}.html")


def _described(trial: FrozenTrial, folder: Path) -> dict[str, Any]:
    run = folder / TRIALS / f"{trial.number:04d}"
    record = read_record(run) if run.is_dir() else None
    attributes = trial.user_attrs
    return {
        "number": trial.number,
        "status": STATES[trial.state],
        "value": trial.value if trial.state == TrialState.COMPLETE else None,
        "params": trial.params,
        "validations": [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)],
        "seconds": attributes.get("seconds"),
        "seed": attributes.get("seed"),
        "sampler_seed": attributes.get("sampler_seed"),
        "threads": attributes.get("threads"),
        "rows": record.usage.rows if record else 0,
        "reason": attributes.get("reason"),
        "begun_again": attributes.get("retried", False),
    }


def _subtitle(found: dict[str, Any]) -> str:
    states = [trial["status"] for trial in found["trials"]]
    counts = ", ".join(f"{states.count(status)} {status}" for status in dict.fromkeys(states))
    return f"{found['method']}, {len(states)} trials ({counts}), {found['seconds']:.0f} s"


def _result(section: Section, found: dict[str, Any]) -> None:
    best = found["best"]
    if best is None:
        section.notice("No trial was trained to its end within the budget.")
        return
    order = "highest" if found["higher_is_better"] else "lowest"
    section.text(
        f"Trial {best['trial']} has the {order} {found['figure']} on valid: {best['value']:.5f}. Its recipe: "
        f"{found['recipe']}. Test was not looked at."
    )
    section.table(("setting", "value"), [(key, _cell(value)) for key, value in best["params"].items()])


def _plots(page: Page, search: Search, found: dict[str, Any], ended: Sequence[dict[str, Any]]) -> None:
    higher, figure = found["higher_is_better"], found["figure"]
    section = page.section("History")
    section.figure(history(ended, figure, higher), f"{figure} of each trial, and the best so far.")
    section.figure(curves(ended, figure), "Validations of each trial: finished, and pruned (grey).")
    finished = [trial for trial in ended if trial["value"] is not None]
    section = page.section("Importance")
    if found["importances"]:
        section.figure(
            importances(found["importances"]),
            "How much of the spread between trials each setting explains (PED-ANOVA, arXiv:2304.10255). It says "
            "nothing about settings that were not searched, and little where the trials are few.",
        )
    else:
        section.text("Four trials that end with different figures are needed to say which setting matters.")
    if finished:
        section = page.section("Parallel coordinates")
        section.figure(
            parallel(search.study.tune, finished, figure, higher),
            "A line is a trial trained to its end, from each setting's value to its figure; the better, the darker.",
        )


def _table(section: Section, found: dict[str, Any]) -> None:
    keys = list(found["settings"]["space"])
    rows = [
        [
            trial["number"],
            trial["status"],
            trial["value"],
            *(_cell(trial["params"].get(key)) for key in keys),
            len(trial["validations"]),
            trial["seconds"],
        ]
        for trial in found["trials"]
    ]
    section.table(["trial", "status", found["figure"], *keys, "validations", "seconds"], rows)
    failed = [
        (trial["number"], trial["reason"], "begun again" if trial["begun_again"] else "given up")
        for trial in found["trials"]
        if trial["reason"]
    ]
    if failed:
        section.table(("trial", "why it failed", "and then"), failed)
    seeds = [
        (trial["number"], *(_cell(trial[key]) for key in ("seed", "sampler_seed", "threads")))
        for trial in found["trials"]
    ]
    section.table(("trial", "training seed", "sampler seed", "threads"), seeds, caption="Seeds", folded=True)


def _cell(value: Any) -> str | int | float | None:
    is_plain = value is None or (isinstance(value, str | int | float) and not isinstance(value, bool))
    return value if is_plain else str(value)


def _rows_trained(found: dict[str, Any]) -> int:
    return int(np.sum([trial["rows"] for trial in found["trials"]]))
