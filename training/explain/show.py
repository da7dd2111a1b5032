"""How findings look: plots and coloured words that several topics share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from training.bootstrap import Range
from training.pages.page import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#0b62a8", "#c8531c", "#8a939b"
_FOR, _AGAINST = "11,98,168", "200,83,28"


def bars(rows: Sequence[tuple[str, Range]], label: str, line: float | None = None) -> Figure:
    """A dot with its interval for each row, from the top; `line`: a value to compare with.

    The axis begins at 0 where all that is to be seen is not a small part of it then, as with ratios around 1.
    """
    drawn, (axis,) = figure(7.2, 0.7 + 0.24 * len(rows))
    places = list(range(len(rows)))
    values = [each.value for _, each in rows]
    errors = [[max(0, each.value - each.low) for _, each in rows], [max(0, each.high - each.value) for _, each in rows]]
    axis.errorbar(values, places, xerr=errors, fmt="o", markersize=4, color=BLUE, ecolor=GREY, elinewidth=1.2)
    if line is not None:
        axis.axvline(line, color=ORANGE, linewidth=1, linestyle="--")
    axis.set_yticks(places, [name for name, _ in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    if min(each.low for _, each in rows) < 0.8 * max(each.high for _, each in rows):
        axis.set_xlim(left=0)
    axis.set_xlabel(label, fontsize=9)
    return drawn


def coloured(pieces: Sequence[tuple[str, float]], largest: float) -> Markup:
    """Texts one after the other, each on a ground that tells its weight: blue above zero, orange below."""
    parts = []
    for text, weight in pieces:
        strength = min(1.0, abs(weight) / largest) if largest else 0.0
        if strength < 0.05:
            parts.append(escape(text))
            continue
        ground = f"rgba({_FOR if weight > 0 else _AGAINST},{0.75 * strength:.2f})"
        # Attributes are ours alone; the text is escaped.
        parts.append(Markup('<mark style="background:{}" title="{:+.3f}">{}</mark>').format(ground, weight, text))
    return Markup("").join(parts)
