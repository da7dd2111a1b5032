"""Figures of a search. Each takes the trials as `report.summary` describes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from training.pages.page import figure
from training.tuning.settings import Choice, Tune

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Trials = Sequence[Mapping[str, Any]]
BLUE, GREY = "#0b62a8", "#9aa4ad"


def history(trials: Trials, name: str, higher: bool) -> Figure:
    """Value by trial number, and the best so far. Of pruned trials the best validation."""
    drawn, (axis,) = figure(7.2, 3.2)
    pick = max if higher else min
    for status, colour, face in (("finished", BLUE, BLUE), ("pruned", GREY, "none"), ("failed", GREY, "none")):
        points = [(trial["number"], pick(trial["validations"])) for trial in trials if trial["status"] == status]
        if points:
            marker = "x" if status == "failed" else "o"
            colours = {"color": colour} if status == "failed" else {"edgecolors": colour, "facecolors": face}
            axis.scatter(*zip(*points, strict=True), s=22, marker=marker, label=status, **colours)
    best = _best_so_far([(trial["number"], trial["value"]) for trial in trials], higher)
    if best:
        axis.step(*zip(*best, strict=True), where="post", color=BLUE, linewidth=1.2, label="best")
    axis.set_xlabel("trial", fontsize=9)
    axis.set_ylabel(name, fontsize=9)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(fontsize=8, frameon=False)
    return drawn


def curves(trials: Trials, name: str) -> Figure:
    """Validations of every trial."""
    drawn, (axis,) = figure(7.2, 3.2)
    for trial in trials:
        steps = range(1, len(trial["validations"]) + 1)
        is_whole = trial["status"] == "finished"
        colour = BLUE if is_whole else GREY
        axis.plot(steps, trial["validations"], ".-", color=colour, linewidth=1, markersize=4, alpha=0.75)
    axis.set_xlabel("validation", fontsize=9)
    axis.set_ylabel(name, fontsize=9)
    axis.xaxis.get_major_locator().set_params(integer=True)
    return drawn


def importances(shares: Mapping[str, float]) -> Figure:
    """A bar a key, the most important on top."""
    ordered = sorted(shares.items(), key=lambda item: item[1])
    drawn, (axis,) = figure(7.2, 0.9 + 0.3 * len(ordered))
    axis.barh([key for key, _ in ordered], [share for _, share in ordered], color=BLUE, height=0.6)
    axis.set_xlim(0, 1)
    axis.set_xlabel("share", fontsize=9)
    return drawn


def parallel(tune: Tune, trials: Trials, name: str, higher: bool) -> Figure:
    """A vertical line a key and one for the value; a line through them a trial, darker for better ones."""
    from matplotlib import colormaps

    columns = [_scaled(tune, key, [trial["params"][key] for trial in trials]) for key in tune.space]
    values = np.array([trial["value"] for trial in trials])
    low, high = float(values.min()), float(values.max())
    spread = (values - low) / (high - low) if high > low else np.full(len(values), 0.5)
    columns.append((spread, [(0.0, f"{low:.4g}"), (1.0, f"{high:.4g}")]))
    shade = colormaps["Blues"](0.25 + 0.75 * (spread if higher else 1 - spread))
    drawn, (axis,) = figure(max(7.2, 1.8 * len(columns)), 3.6)
    points = np.stack([column for column, _ in columns])  # (keys + 1, trials)
    for index in np.argsort(spread if higher else -spread):
        axis.plot(points[:, index], color=shade[index], linewidth=1.6)
    for place, (_, ticks) in enumerate(columns):
        axis.axvline(place, color="#1b1f24", linewidth=0.8)
        for height, text in ticks:
            axis.annotate(text, (place, height), xytext=(3, 2), textcoords="offset points", fontsize=7.5)
    axis.set_xticks(range(len(columns)), [*tune.space, name], fontsize=8)
    axis.set_yticks([])
    axis.set_xlim(-0.1, len(columns) - 0.6)
    axis.grid(visible=False)
    axis.spines[["left", "bottom"]].set_visible(False)
    return drawn


def progress(searches: Sequence[Mapping[str, Any]], higher: bool) -> Figure:
    """The best value so far of several searches: by trials begun, and by rows trained on."""
    drawn, (by_trial, by_rows) = figure(9.6, 3.4, columns=2)
    for search in searches:
        ended = [trial for trial in search["trials"] if trial["status"] in ("finished", "pruned", "failed")]
        rows = np.cumsum([trial["rows"] for trial in ended])
        for axis, places in ((by_trial, range(1, len(ended) + 1)), (by_rows, rows)):
            best = _best_so_far([(at, trial["value"]) for at, trial in zip(places, ended, strict=True)], higher)
            if best:
                best.append((float(list(places)[-1]), best[-1][1]))
                axis.step(*zip(*best, strict=True), where="post", label=search["method"], linewidth=1.4)
    by_trial.set_xlabel("trials", fontsize=9)
    by_rows.set_xlabel("rows trained on", fontsize=9)
    by_trial.set_ylabel(f"best {searches[0]['figure']}", fontsize=9)
    by_trial.legend(fontsize=8, frameon=False)
    return drawn


def _best_so_far(points: Sequence[tuple[float, float | None]], higher: bool) -> list[tuple[float, float]]:
    best: list[tuple[float, float]] = []
    for at, value in points:
        if value is not None:
            known = best[-1][1] if best else value
            best.append((float(at), max(known, value) if higher else min(known, value)))
    return best


def _scaled(tune: Tune, key: str, values: Sequence[Any]) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Places of `values` between 0 and 1, and the ticks: (place, text)."""
    given = tune.space[key]
    if isinstance(given, Choice):
        options = list(given.points or ())
        last = max(len(options) - 1, 1)
        places = np.array([options.index(value) / last for value in values])
        return places, [(index / last, str(option)) for index, option in enumerate(options)]
    ends = np.array([given.low, given.high], float)
    numbers = np.asarray(values, float)
    if given.log:
        ends, numbers = np.log(ends), np.log(numbers)
    ticks = [(0.0, f"{given.low:.3g}"), (1.0, f"{given.high:.3g}")]
    return (numbers - ends[0]) / (ends[1] - ends[0]), ticks
