"""Draws the curves of a training run from its log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def draw_curves(entries: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Write a PNG: loss of train and valid, the other validation figures, the learning rate. Empty panels are left out.

    `entries`: those of `progress.read_log`.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figures = sorted({key for entry in entries for key in entry if key.startswith("valid_")} - {"valid_loss"})
    panels: list[tuple[str, list[tuple[str, str, str]]]] = [
        ("loss", [("loss", "train", "-"), ("valid_loss", "valid", "o-")]),
        *((key.removeprefix("valid_").replace("_", " "), [(key, "valid", "o-")]) for key in figures),
        ("learning rate", [("lr", "learning rate", "-")]),
    ]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.2), squeeze=False)
    for axis, (name, lines) in zip(axes[0], panels, strict=True):
        for key, label, style in lines:
            points = [(entry["step"], entry[key]) for entry in entries if key in entry]
            if points:
                axis.plot(*zip(*points, strict=True), style, label=label, markersize=3, linewidth=1.2)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("step", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
        if len(lines) > 1 and axis.lines:
            axis.legend(fontsize=8, frameon=False)
    axes[0][-1].ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
