"""A review as a section of a page: what was found, by kind and split, and the rows most worth a look."""

from __future__ import annotations

from collections.abc import Sequence

from training.pages.page import Cell, Section, figure
from training.review.findings import KINDS, Kind, Review, Suspect

SHOWN_ROWS = 15  # of each kind


def show(section: Section, review: Review) -> None:
    """Fill the section."""
    splits = list(review.rows)
    counts = review.counts()
    section.text(
        "Candidates, not verdicts: a person decides in the sheet. Every row of train was judged by models that had not "
        "seen it, those of valid and test by models of train."
    )
    errors = ", ".join(
        f"{count} of {split}'s {review.rows[split]} rows" for split, count in review.counted_errors.items()
    )
    section.text(f"Label errors by cleanlab's count: {errors}.")
    section.table(
        ["finding", *splits, "what it is"],
        [[kind, *(counts[kind][split] for split in splits), what] for kind, what in KINDS.items()],
        caption="Rows with a finding of each kind",
    )
    _draw(section, review)
    for kind, what in KINDS.items():
        found = [suspect for suspect in review.suspects if any(reason.kind == kind for reason in suspect.reasons)]
        if found:
            _rows(section, kind, what, found)


def _draw(section: Section, review: Review) -> None:
    train = [suspect.suspicion for suspect in review.suspects if suspect.split == "train"]
    if not train:
        return
    drawn, (axis,) = figure(6.4, 2.6)
    axis.plot(range(1, len(train) + 1), train, linewidth=1.5)
    axis.axvline(review.counted_errors["train"], color="gray", linestyle="--", linewidth=1)
    axis.set_xlabel("row of train, most suspicious first")
    axis.set_ylabel("suspicion")
    axis.set_ylim(0, 1)
    section.figure(drawn, "How sure other rows are that a label is wrong. Dashed: as many as cleanlab counts.")


def _rows(section: Section, kind: Kind, what: str, found: Sequence[Suspect]) -> None:
    rows: list[list[Cell]] = [
        [
            suspect.row,
            suspect.text_a,
            suspect.text_b,
            suspect.label,
            suspect.suggested or None,
            suspect.suspicion,
            "; ".join(reason.text for reason in suspect.reasons if reason.kind == kind),
        ]
        for suspect in found[:SHOWN_ROWS]
    ]
    caption = f"{kind}: {what} ({len(rows)} of {len(found)} shown)"
    columns = ["row", "text a", "text b", "label", "suggested", "suspicion", "why"]
    section.table(columns, rows, caption=caption, folded=kind != "label")
