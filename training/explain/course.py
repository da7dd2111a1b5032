"""How the training went: its curves, when it had converged, its throughput, memory, and where the time went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training.explain.contract import Findings, Subject
from training.explain.show import BLUE, ORANGE
from training.explain.words import Words
from training.pages.page import Section, figure
from training.progress import read_log
from training.run_folder import LOG_FILE
from training.run_record import read_record

CONVERGED = 0.01  # of the way from the first validation to the best one may be missing


class Series(Findings):
    """One figure over the steps."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


class CourseFindings(Findings):
    """Of one training run. `converged_*`: the first validation that was within a hundredth of the best one's gain."""

    steps: int
    seconds: float | None
    best_step: int | None
    best_metric: str | None
    best_value: float | None
    converged_step: int | None
    converged_s: float | None
    steps_per_s: float | None
    rows_per_s: float | None
    tokens_per_s: float | None
    peak_memory_bytes: int | None
    peak_gpu_memory_bytes: int | None
    stage_seconds: dict[str, float]
    series: tuple[Series, ...]


def find(subject: Subject) -> CourseFindings | None:
    """Read the run's record and log; None where the artifact was not trained here."""
    record = read_record(subject.run) if subject.run else None
    if record is None or subject.run is None:
        return None
    entries = read_log(subject.run / LOG_FILE)
    usage = record.usage
    last = entries[-1] if entries else {}
    steps_per_s = last["step"] / last["seconds"] if last.get("seconds") else None
    converged = convergence(entries, record.best)
    return CourseFindings(
        steps=record.recipe.train.steps,
        seconds=record.seconds,
        best_step=record.best.get("step"),
        best_metric=record.best.get("metric"),
        best_value=record.best.get("value"),
        converged_step=converged.get("step"),
        converged_s=converged.get("seconds"),
        steps_per_s=steps_per_s and round(steps_per_s, 3),
        rows_per_s=usage.rows_per_s,
        tokens_per_s=usage.tokens_per_s,
        peak_memory_bytes=usage.peak_memory_bytes or None,  # 0 in records from before it was measured
        peak_gpu_memory_bytes=usage.peak_gpu_memory_bytes,
        stage_seconds=usage.stage_seconds,
        series=series(entries),
    )


def convergence(entries: Sequence[Mapping[str, Any]], best: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first validation within CONVERGED of the best value, as a share of what was gained since the first one."""
    key = f"valid_{best.get('metric')}"
    judged = [entry for entry in entries if key in entry]
    if not judged:
        return {}
    first, value = judged[0][key], best["value"]
    allowed = CONVERGED * abs(value - first)
    return next((entry for entry in judged if abs(entry[key] - value) <= allowed + 1e-5), {})


def series(entries: Sequence[Mapping[str, Any]]) -> tuple[Series, ...]:
    """Every figure of a log by its name, `loss` and `lr` first."""
    names = list(dict.fromkeys(key for entry in entries for key in entry if key not in {"step", "seconds"}))
    found = []
    for name in names:
        points = [(entry["step"], entry[name]) for entry in entries if isinstance(entry.get(name), int | float)]
        if points:
            steps, values = zip(*points, strict=True)
            found.append(Series(name=name, steps=steps, values=values))
    return tuple(found)


def show(found: CourseFindings, section: Section, word: Words) -> None:
    """Key figures, curves, stages."""
    rows: list[tuple[str, float | int | str | None]] = [
        (word("steps"), found.steps),
        (word("seconds trained"), found.seconds),
        (word("best validation at step"), found.best_step),
        (f"{word('best validation')}: {word.known(str(found.best_metric))}", found.best_value),
        (word("converged at step"), found.converged_step),
        (word("converged after seconds"), found.converged_s),
        (word("steps a second"), found.steps_per_s),
        (word("rows a second"), found.rows_per_s),
        (word("tokens a second"), found.tokens_per_s),
        (word("peak memory, MB"), _megabytes(found.peak_memory_bytes)),
        (word("peak GPU memory, MB"), _megabytes(found.peak_gpu_memory_bytes)),
    ]
    section.table(
        [word("figure"), word("value")],
        [row for row in rows if row[1] is not None],
        caption=word("Converged: the first validation that had 99 % of what the best one gained over the first."),
    )
    _show_curves(found, section, word)
    if found.stage_seconds:
        total = sum(found.stage_seconds.values())
        section.table(
            [word("stage"), word("seconds"), word("share")],
            [[word.known(name), each, f"{each / total:.0%}"] for name, each in found.stage_seconds.items()],
            caption=word("Where the time went"),
        )


def _megabytes(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else round(size_bytes / 1e6, 1)


def _show_curves(found: CourseFindings, section: Section, word: Words) -> None:
    by_name = {each.name: each for each in found.series}
    others = [name for name in by_name if name not in {"loss", "valid_loss"}]
    panels = [["loss", "valid_loss"], *([name] for name in others)]
    panels = [[name for name in names if name in by_name] for names in panels]
    panels = [names for names in panels if names]
    for start in range(0, len(panels), 3):
        group = panels[start : start + 3]
        drawn, axes = figure(3.0 * len(group), 2.7, len(group))
        for axis, names in zip(axes, group, strict=True):
            for name, colour in zip(names, (BLUE, ORANGE), strict=False):
                axis.plot(
                    by_name[name].steps, by_name[name].values, color=colour, linewidth=1.2, label=word.known(name)
                )
            if found.best_step is not None:
                axis.axvline(found.best_step, color=ORANGE, linewidth=0.8, linestyle=":")
            axis.set_xlabel(word("step"), fontsize=9)
            axis.set_title(word.known(names[0]), fontsize=9)
            if len(names) > 1:
                axis.legend(fontsize=8, frameon=False)
        section.figure(drawn, word("Curves; dotted: the validation that was kept.") if start + 3 >= len(panels) else "")
