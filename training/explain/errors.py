"""Where a matching model is wrong: its worst cases with the words they rest on, and the slices that are worse."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from runtime.contract import Pair
from training.bootstrap import Range, wilson
from training.explain import features, slices
from training.explain.attribution import Attribution, occlusion
from training.explain.contract import Bools, Findings, ScoredRows, Subject
from training.explain.show import bars, coloured
from training.explain.slices import TERM, Slice
from training.explain.words import Words
from training.pages.page import Section

SHOWN = 10  # worst cases of either sort
EXAMPLES = 3  # of a found slice
MOST_TERMS = 150


class Case(Findings):
    """A row that is decided wrongly, or was changed. `attribution`: on which words its score rests."""

    where: str
    text_a: str
    text_b: str
    label: str
    score: float
    attribution: Attribution | None = None


class FoundSlice(Findings):
    """A slice that is worse than the rest, with some of its wrong rows."""

    slice: Slice
    examples: tuple[Case, ...]


class ErrorFindings(Findings):
    """`missed`: matches that are taken for none, lowest score first; `false_matches`: the reverse, highest first."""

    rows: int
    wrong: int
    rate: Range
    missed_in_all: int
    false_matches_in_all: int
    missed: tuple[Case, ...]
    false_matches: tuple[Case, ...]
    slices: tuple[Slice, ...]
    found: tuple[FoundSlice, ...]


def find(subject: Subject) -> ErrorFindings:
    """Errors of the explained artifact on the subject's split."""
    scored = subject.scored(subject.artifact, subject.split)
    wrong = scored.wrong
    order = np.argsort(scored.scores, kind="stable")
    missed = [place for place in order if wrong[place] and scored.truth[place]]
    false = [place for place in order[::-1] if wrong[place] and not scored.truth[place]]
    shown = [*missed[:SHOWN], *false[:SHOWN]]
    subject.log(f"words of {len(shown)} cases")
    pairs = [Pair(scored.rows[place].text_a, scored.rows[place].text_b) for place in shown]
    attributions = dict(zip(shown, occlusion(pairs, subject.score) if pairs else [], strict=True))
    by_value, found = _slices(wrong, scored, subject)
    return ErrorFindings(
        rows=len(wrong),
        wrong=int(wrong.sum()),
        rate=Range.of(wilson(int(wrong.sum()), len(wrong))),
        missed_in_all=len(missed),
        false_matches_in_all=len(false),
        missed=tuple(case(scored, place, attributions[place]) for place in missed[:SHOWN]),
        false_matches=tuple(case(scored, place, attributions[place]) for place in false[:SHOWN]),
        slices=by_value,
        found=found,
    )


def case(scored: ScoredRows, place: int, attribution: Attribution | None = None) -> Case:
    """One row as the JSON holds it."""
    row = scored.rows[place]
    return Case(
        where=row.where,
        text_a=row.text_a,
        text_b=row.text_b,
        label=row.label,
        score=round(float(scored.scores[place]), 4),
        attribution=attribution,
    )


def _slices(wrong: Bools, scored: ScoredRows, subject: Subject) -> tuple[tuple[Slice, ...], tuple[FoundSlice, ...]]:
    values = features.features(scored, subject.splits.train)
    terms = features.term_rows(scored.rows, slices.least_rows(len(wrong)), MOST_TERMS)
    found = []
    for each in slices.worse(wrong, values, terms):
        places = np.flatnonzero(wrong & slices.members(each, values, terms))[:EXAMPLES]
        found.append(FoundSlice(slice=each, examples=tuple(case(scored, int(place)) for place in places)))
    return tuple(slices.by_value(wrong, values)), tuple(found)


# ---------------------------------------------------------------- the page


def show(found: ErrorFindings, section: Section, word: Words) -> None:
    """What was found by the search first, then the slices by property, then single cases."""
    section.text(
        word(
            "{wrong} of {rows} pairs are decided wrongly ({rate}): {missed} matches are missed, {false} pairs are "
            "taken for a match.",
            wrong=found.wrong,
            rows=found.rows,
            rate=found.rate.percent(),
            missed=found.missed_in_all,
            false=found.false_matches_in_all,
        )
    )
    if found.found:
        section.table(
            [word(each) for each in ("slice", "pairs", "wrong", "rate [95 %]", "rate outside", "q")],
            [slice_cells(each.slice, word) for each in found.found],
            caption=word(
                "Slices found that do significantly worse. All conditions and pairs of conditions were tested "
                "(Fisher); q is corrected for that (Benjamini-Hochberg, 5 %)."
            ),
        )
        section.table(
            [word(each) for each in ("slice", "text a", "text b", "label", "score")],
            [
                [describe(each.slice, word), one.text_a, one.text_b, one.label, one.score]
                for each in found.found
                for one in each.examples
            ],
            caption=word("Examples of these slices"),
            folded=True,
        )
    else:
        section.text(word("No slice was found that does significantly worse than the rest (false discovery rate 5 %)."))
    if found.slices:
        slice_plot(found.slices, found.rate.value, section, word, word("share of pairs decided wrongly"))
        slice_table(found.slices, section, word)
    for title, cases in (
        ("Missed matches, the lowest scores first", found.missed),
        ("False matches, the highest scores first", found.false_matches),
    ):
        case_table(word(title), cases, section, word)


def slice_plot(found: Sequence[Slice], overall: float, section: Section, word: Words, label: str) -> None:
    """Rates of all slices, with a line where all rows are."""
    section.figure(
        bars([(describe(each, word), each.rate) for each in found], label, overall),
        word("By slice, with 95 % intervals; the line is the rate of all pairs."),
    )


def slice_table(found: Sequence[Slice], section: Section, word: Words) -> None:
    """The figures of that plot."""
    section.table(
        [word(each) for each in ("slice", "pairs", "marked", "rate [95 %]", "rate outside", "q")],
        [slice_cells(each, word) for each in found],
        caption=word("Figures by slice"),
        folded=True,
    )


def slice_cells(each: Slice, word: Words) -> list[str | int]:
    """A slice as a row of a table."""
    return [
        describe(each, word),
        each.rows,
        each.marked,
        each.rate.percent(),
        f"{each.rate_outside:.1%}",
        f"{each.q:.2g}",
    ]


def describe(each: Slice, word: Words) -> str:
    """Its conditions in words. A term stays what it is: it may be one of the page's words by chance."""
    return " + ".join(
        f"{word.known(one.feature)}: {one.value if one.feature == TERM else word.known(one.value)}"
        for one in each.conditions
    )


def case_table(title: str, cases: Sequence[Case], section: Section, word: Words) -> None:
    """Cases with their words coloured."""
    if not cases:
        return
    section.table(
        [word(each) for each in ("score", "label", "text a", "text b", "where")],
        [[each.score, each.label, *_texts(each), spot(each.where)] for each in cases],
        caption=f"{title}. " + word("Blue words raise the score, orange ones lower it (taken out one at a time)."),
    )


def spot(where: str) -> str:
    """file:line without the folders."""
    return where.rpartition("/")[2]


def _texts(each: Case) -> tuple[str | Markup, str | Markup]:
    found = each.attribution
    if found is None:
        return each.text_a, each.text_b
    a, b = (coloured([(piece.text, piece.weight) for piece in pieces], found.largest) for pieces in (found.a, found.b))
    return a, b
