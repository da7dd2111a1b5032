"""A page is made of sections, a section of blocks in the order in which they were added; `write` makes one HTML file.

Nothing is fetched when it is opened: styles and plots are inline. Plots keep their letters as text, so that a browser
shows whatever script the data is in with its own fonts.
"""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import markupsafe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PIXELS_PER_INCH = 112  # of a plot: its letters are then as large as the page's small ones
SMALLEST = 0.65  # of its width, before it is scrolled instead
TEMPLATE = Path(__file__).with_name("page.html.j2")
Cell = str | int | float | None | markupsafe.Markup  # Markup is shown as it is; all else is escaped


@dataclass(frozen=True, slots=True)
class Block:
    """One thing below another. `kind`: text, table, figure, notice or list."""

    kind: str
    caption: str = ""
    text: str | markupsafe.Markup = ""
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Cell, ...], ...] = ()
    folded: bool = False  # shown when it is asked for


@dataclass(slots=True)
class Section:
    """A heading with blocks."""

    title: str
    blocks: list[Block] = field(default_factory=list)

    def text(self, text: str | markupsafe.Markup) -> None:
        """A paragraph."""
        self.blocks.append(Block("text", text=text))

    def notice(self, text: str) -> None:
        """A paragraph that should not be overlooked."""
        self.blocks.append(Block("notice", text=text))

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, caption: str = "", folded: bool = False
    ) -> None:
        """A table; numbers stand right, None is a dash. Raises ValueError for a row of another width than the head."""
        for row in rows:
            if len(row) != len(columns):
                raise ValueError(f"a row of {len(row)} cells stands below {len(columns)} columns: {row!r}")
        self.blocks.append(Block("table", caption, columns=tuple(columns), rows=tuple(map(tuple, rows)), folded=folded))

    def figure(self, figure: Figure, caption: str = "") -> None:
        """A matplotlib figure, drawn now. `caption` says in words what there is to see."""
        self.blocks.append(Block("figure", caption, text=svg(figure)))


@dataclass(slots=True)
class Page:
    """`language`: of the texts that the page shows, as HTML names it (en, zh)."""

    title: str
    subtitle: str = ""
    language: str = "en"
    sections: list[Section] = field(default_factory=list)

    def section(self, title: str) -> Section:
        """A new section at the end."""
        self.sections.append(Section(title))
        return self.sections[-1]

    def html(self) -> str:
        """The whole document."""
        environment = jinja2.Environment(
            autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        environment.filters |= {"cell": _cell, "is_number": _is_number, "own_ids": _OwnIds()}
        return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(page=self)

    def write(self, path: Path) -> Path:
        """Write the document, atomically; returns `path`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.partial")
        temporary.write_text(self.html(), encoding="utf-8")
        return temporary.replace(path)


def svg(figure: Figure) -> markupsafe.Markup:
    """A matplotlib figure as an inline SVG element."""
    from matplotlib import rc_context

    looks = {"svg.fonttype": "none", "svg.hashsalt": "page"}  # the same figure, the same element
    with io.StringIO() as stream, rc_context(looks), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of our font; the browser brings its own
        figure.savefig(stream, format="svg", bbox_inches="tight", metadata={"Date": None})
        text = stream.getvalue()
    element = text[text.index("<svg") :]
    # Shown as wide as it was drawn; less where the page is narrower, as long as its letters can be read.
    element = re.sub(r'<svg ([^>]*?)width="[^"]*" ?', r"<svg \1", element.replace("\n", " ", 1), count=1)
    width = figure.get_figwidth() * PIXELS_PER_INCH
    looks_wide = f'style="max-width:{width:.0f}px;min-width:{SMALLEST * width:.0f}px" '
    element = re.sub(r'<svg ([^>]*?)height="[^"]*" ?', rf"<svg {looks_wide}\1", element, count=1)
    return markupsafe.Markup(element)  # matplotlib escapes what it is given


def figure(width: float = 6.4, height: float = 3.2, columns: int = 1) -> tuple[Figure, list]:
    """An empty figure of `columns` axes side by side, in inches, with the page's looks. Not known to pyplot, so nothing
    has to be closed."""
    from matplotlib.figure import Figure as NewFigure

    new = NewFigure(figsize=(width, height), layout="constrained")
    axes = list(new.subplots(1, columns, squeeze=False)[0])
    for axis in axes:
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return new, axes


class _OwnIds:
    """Gives each figure of a page ids that no other has: matplotlib numbers them anew in every one, and a plot would
    be cut off by the clip path of the first."""

    def __init__(self) -> None:
        self._figures = itertools.count(1)

    def __call__(self, element: str) -> markupsafe.Markup:
        # As a plain string: Markup would escape what it is joined from.
        own = rf"\g<1>f{next(self._figures)}-"
        return markupsafe.Markup(re.sub(r'( id="|(?:url\(|href=")#)', own, str(element)))


def _is_number(value: Cell) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Cell) -> str | markupsafe.Markup:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, markupsafe.Markup) else str(value)
