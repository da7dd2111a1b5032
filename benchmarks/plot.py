"""The pictures: pairs/s of every server of matching at 1, 16 and 64 clients beside the raw limit, and tokens/s of every
server and engine of generation at one and eight streams."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from benchmarks.figures import DECODE_PLOT, PEERS_PLOT, Result, machine

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


STREAM_COLOURS = {"1": "#9ecae1", "8": "#084594"}


def plot_decode(result: Result, path: Path) -> None:
    """A panel for each model and precision: the raw loop first, ours, then the peers, fastest on top."""
    matplotlib.use("Agg")
    panels = list(dict.fromkeys((row["model"], row["precision"]) for row in result["rows"].values()))
    canvas = Figure(figsize=(10, 1 + 2.4 * ((len(panels) + 1) // 2)), layout="constrained")
    grid = canvas.subplots((len(panels) + 1) // 2, 2, squeeze=False, sharex=True).flatten()
    for axes, (model, precision) in zip(grid, panels, strict=False):
        rows = [row for row in result["rows"].values() if (row["model"], row["precision"]) == (model, precision)]
        rows.sort(key=lambda row: row["streams"]["8"]["per_s"]["median"])
        for offset, (streams, colour) in enumerate(STREAM_COLOURS.items()):
            figures = [row["streams"][streams]["per_s"] for row in rows]
            middles = [each["median"] for each in figures]
            ranges = [
                [each["median"] - each["min"] for each in figures],
                [each["max"] - each["median"] for each in figures],
            ]
            places = [place + (0.5 - offset) * 0.4 for place in range(len(rows))]
            label = f"{streams} stream{'' if streams == '1' else 's'}"
            axes.barh(places, middles, 0.4, color=colour, label=label, xerr=ranges, error_kw={"lw": 0.8})
        axes.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=8)
        axes.set_title(f"{model}, {precision}", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    grid[1].legend(fontsize=8, loc="lower right")  # fp32 has room there
    canvas.supxlabel("tokens a second, prefill included (median and range of the rounds)", fontsize=9)
    canvas.suptitle(f"Generation: servers over HTTP, engines without a server, {machine(result)}", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=120)


PLOTS = {"peers": (PEERS_PLOT, plot_peers), "decode": (DECODE_PLOT, plot_decode)}
