"""The sheet: a CSV that a person opens in a spreadsheet and decides on row by row; read back with line numbers."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from records.rows import BadRow, read_rows
from records.storage import StorageError
from runtime.errors import InvalidInput
from training.data.pairs import label_text
from training.review.findings import DROP, KEEP, Review

# `fingerprint` and `row` find the row again; what else a person changes, but for `decision`, changes nothing.
COLUMNS = (
    "decision",
    "suggested",
    "label",
    "text_a",
    "text_b",
    "suspicion",
    "rank",
    "reasons",
    "row",
    "where",
    "fingerprint",
)
NEEDED = ("row", "fingerprint", "suggested", "rank", "decision")
SHOWN_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a sheet that was read back. `decision`: a label, DROP, KEEP, or nothing yet."""

    line: int
    split: str
    number: int  # of the row, from 1
    fingerprint: str
    suggested: str
    rank: int
    decision: str


def write_sheet(review: Review, path: Path) -> Path:
    """Write the suspects, most suspicious first; returns `path`."""
    # The byte-order mark tells a spreadsheet that this is UTF-8.
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        for suspect in review.suspects:
            cells = suspect.model_dump(exclude={"reasons"})
            reasons = "; ".join(reason.text for reason in suspect.reasons)
            writer.writerow(cells | {"decision": "", "reasons": reasons})
    return path


def read_sheet(path: Path, labels: Sequence[str]) -> list[Line]:
    """Every line. CSV, TSV or JSONL, by the file's ending.

    Raises InvalidInput naming each line that cannot be used: a decision that is no label, a row that stands twice, …
    """
    lines: list[Line] = []
    problems: list[str] = []
    seen: dict[str, int] = {}
    try:
        for row in read_rows(str(path)):
            try:
                if isinstance(row, BadRow):
                    raise ValueError(row.reason)
                line = _line(row.line, row.values, labels)
                name = f"{line.split}:{line.number}"
                if name in seen:
                    raise ValueError(f"row {name} stands on line {seen[name]} already")
                seen[name] = row.line
                lines.append(line)
            except ValueError as error:
                problems.append(f"{path}:{row.line}: {error}")
    except StorageError as error:
        raise InvalidInput(f"The review file cannot be read: {error}") from None
    refuse(problems)
    return lines


def refuse(problems: Sequence[str]) -> None:
    """Raises InvalidInput with the problems, where there are any."""
    if problems:
        rest = [f"… and {len(problems) - SHOWN_PROBLEMS} more"] if len(problems) > SHOWN_PROBLEMS else []
        raise InvalidInput("\n".join(["nothing was changed:", *problems[:SHOWN_PROBLEMS], *rest]))


def _line(number: int, values: Mapping[str, Any], labels: Sequence[str]) -> Line:
    missing = [name for name in NEEDED if name not in values]
    if missing:
        raise ValueError(f"no column {', '.join(map(repr, missing))}")
    cells = {name: label_text(values[name]) or "" for name in NEEDED}
    split, _, place = cells["row"].partition(":")
    if not place.isdecimal() or not int(place):
        raise ValueError(f"row {cells['row']!r} is not SPLIT:NUMBER")
    rank = _whole(cells["rank"])
    if not rank.isdecimal():
        raise ValueError(f"rank {cells['rank']!r} is no number")
    decision, suggested = (_decision(cells[name], labels) for name in ("decision", "suggested"))
    return Line(number, split, int(place), cells["fingerprint"], suggested, int(rank), decision)


def _decision(text: str, labels: Sequence[str]) -> str:
    if not text:
        return text
    for same in (text, _whole(text), text.lower()):
        if same in (*labels, DROP, KEEP):
            return same
    known = ", ".join(labels)
    raise ValueError(f"decision {text!r} is unknown; write one of the labels ({known}), {DROP}, {KEEP}, or nothing")


def _whole(text: str) -> str:
    """A spreadsheet may have made 1.0 of 1."""
    return text.removesuffix(".0")
