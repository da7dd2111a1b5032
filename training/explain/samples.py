"""What the run's review found of its data (`python -m training review`): how many rows, and those most worth a look."""

from __future__ import annotations

from training.explain.contract import Findings, Subject
from training.explain.errors import spot
from training.explain.words import Words
from training.pages.page import Section
from training.review.findings import KINDS, Kind, Suspect, read_review

SHOWN = 15  # rows


class SampleFindings(Findings):
    """`counts`: kind of finding -> split -> rows. `suspects`: the most suspicious rows of train."""

    rows: dict[str, int]
    counted_label_errors: dict[str, int]
    counts: dict[Kind, dict[str, int]]
    suspects: tuple[Suspect, ...]


def find(subject: Subject) -> SampleFindings | None:
    """Read the run's review; None where there is none."""
    review = read_review(subject.run) if subject.run else None
    if review is None:
        return None
    suspects = sorted((each for each in review.suspects if each.split == "train"), key=lambda each: each.rank)
    return SampleFindings(
        rows=review.rows,
        counted_label_errors=review.counted_errors,
        counts=review.counts(),
        suspects=tuple(suspects[:SHOWN]),
    )


def show(found: SampleFindings, section: Section, word: Words) -> None:
    """Counts by kind, then rows."""
    counted = ", ".join(f"{split} {count} / {found.rows[split]}" for split, count in found.counted_label_errors.items())
    section.text(
        word(
            "Candidates, not verdicts: a person decides in the sheet (review/review.csv). Label errors by cleanlab's "
            "count: {counted}.",
            counted=counted,
        )
    )
    section.table(
        [word("finding"), *found.rows, word("what it is")],
        [[word.known(kind), *by_split.values(), word(KINDS[kind])] for kind, by_split in found.counts.items()],
        caption=word("Rows with a finding of each kind"),
    )
    section.table(
        [word(each) for each in ("suspicion", "label", "suggested", "text a", "text b", "where")],
        [
            [each.suspicion, each.label, each.suggested or None, each.text_a, each.text_b, spot(each.where)]
            for each in found.suspects
        ],
        caption=word("The most suspicious rows of train"),
    )
