"""The picture of the peers section: pairs/s of every server at 1, 16 and 64 clients, beside the raw limit."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from benchmarks.figures import Result, machine

COLOURS = {"1": "#9ecae1", "16": "#4292c6", "64": "#084594"}


def plot_peers(result: Result, path: Path) -> None:
    """Bars with the range of the rounds, fastest at the top."""
    matplotlib.use("Agg")
    rows = sorted(result["rows"].items(), key=lambda item: max(_medians(item[1])))
    canvas = Figure(figsize=(9, 0.8 + 0.75 * len(rows)), layout="constrained")
    axes = canvas.subplots()
    height = 0.26
    for offset, (clients, colour) in enumerate(COLOURS.items()):
        figures = [row["clients"][clients]["per_s"] for _, row in rows]
        middles = [each["median"] for each in figures]
        ranges = [
            [each["median"] - each["min"] for each in figures],
            [each["max"] - each["median"] for each in figures],
        ]
        places = [place + (1 - offset) * height for place in range(len(rows))]
        label = f"{clients} client{'' if clients == '1' else 's'}"
        axes.barh(places, middles, height, color=colour, label=label, xerr=ranges, error_kw={"lw": 0.8})
    limit = result["limit"]["median"]
    axes.axvline(limit, color="#b30000", lw=1.2, ls="--", label=f"raw int8 limit, {limit:.0f}")
    axes.set_yticks(
        range(len(rows)),
        [name if row["precision"] in name else f"{name}\n{row['precision']}" for name, row in rows],
        fontsize=9,
    )
    axes.set_xlabel("single-pair requests answered per second (median and range of the rounds)")
    axes.set_title(f"Matching over HTTP, {machine(result)}", fontsize=10)
    axes.legend(fontsize=8, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=120)


def _medians(row: Result) -> list[float]:
    return [float(its["per_s"]["median"]) for its in row["clients"].values()]
