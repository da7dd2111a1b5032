"""What compression breaks: for each artifact and its parent, which rows are newly wrong, where they lie, and whether
they cluster there or are spread as chance would have it."""

from __future__ import annotations

import numpy as np
from scipy.stats import binomtest

from training.bootstrap import Range, paired_difference, wilson
from training.explain import features, slices
from training.explain.contract import F64, Bools, Findings, ScoredRows, Subject
from training.explain.errors import MOST_TERMS, describe, slice_cells, slice_plot, slice_table, spot
from training.explain.lineage import links
from training.explain.show import BLUE, GREY, ORANGE
from training.explain.slices import Slice
from training.explain.words import Words
from training.pages.page import Section, figure

SHOWN = 20  # flipped rows a step
NEAR = 0.2  # share of all rows, those nearest to the threshold


class Flip(Findings):
    """A row that is decided otherwise than by the parent."""

    where: str
    text_a: str
    text_b: str
    label: str
    score_before: float
    score: float
    newly_wrong: bool


class StepFindings(Findings):
    """An artifact against its parent, each at its own threshold.

    `near_share`: of the flipped rows, how many are among the fifth of all rows whose scores are nearest to the
    threshold; chance would have a fifth of them. `p_worse`: McNemar's exact test that the flips go to the wrong side.
    `clusters`: slices with significantly more flips than outside.
    """

    artifact: str
    parent: str
    steps: tuple[str, ...]
    rows: int
    newly_wrong: int
    newly_right: int
    flip_rate: Range
    p_worse: float
    mean_change: float
    f1_change: Range | None
    near_share: Range | None
    flips: tuple[Flip, ...]
    by_slice: tuple[Slice, ...]
    clusters: tuple[Slice, ...]
    scores: tuple[tuple[float, float], ...]  # parent's, own; at most 500 rows, for the plot


class FlipFindings(Findings):
    """Every artifact whose parent lies there too."""

    steps: tuple[StepFindings, ...]


def find(subject: Subject) -> FlipFindings | None:
    """Compare each artifact with the one it was made from, on the subject's split."""
    found = []
    for link in links(subject):
        before, after = (subject.scored(each, subject.split) for each in (link.parent, link.artifact))
        found.append(compare(before, after, subject, link.name, link.parent_name, link.steps))
    return FlipFindings(steps=tuple(found)) if found else None


def compare(
    before: ScoredRows, after: ScoredRows, subject: Subject, artifact: str, parent: str, steps: tuple[str, ...]
) -> StepFindings:
    """Two artifacts on the same rows."""
    flipped = before.guessed != after.guessed
    broken = flipped & after.wrong
    repaired = int(flipped.sum() - broken.sum())
    values = features.features(before, subject.splits.train)
    terms = features.term_rows(before.rows, slices.least_rows(len(flipped)), MOST_TERMS)
    order = np.argsort(-np.abs(after.scores - before.scores), kind="stable")
    shown = [at for at in order if broken[at]][:SHOWN]
    drawn = np.random.default_rng(subject.seed).permutation(len(flipped))[:500]
    return StepFindings(
        artifact=artifact,
        parent=parent,
        steps=steps,
        rows=len(flipped),
        newly_wrong=int(broken.sum()),
        newly_right=repaired,
        flip_rate=Range.of(wilson(int(flipped.sum()), len(flipped))),
        p_worse=_worse(int(broken.sum()), repaired),
        mean_change=round(float(np.abs(after.scores - before.scores).mean()), 6),
        f1_change=_f1_change(before, after),
        near_share=_near(flipped, before),
        flips=tuple(_flip(before, after, int(at)) for at in shown),
        by_slice=tuple(slices.by_value(flipped, values)) if flipped.any() else (),
        clusters=tuple(slices.worse(flipped, values, terms)),
        scores=tuple((round(float(before.scores[at]), 4), round(float(after.scores[at]), 4)) for at in drawn),
    )


def _worse(broken: int, repaired: int) -> float:
    return float(binomtest(broken, broken + repaired, alternative="greater").pvalue) if broken + repaired else 1.0


def _f1_change(before: ScoredRows, after: ScoredRows) -> Range | None:
    try:
        found = paired_difference("f1", after.scores, before.scores, before.truth, after.threshold, before.threshold)
    except ValueError:  # nothing is taken for a match
        return None
    return Range.of(found)


def _near(flipped: Bools, before: ScoredRows) -> Range | None:
    if not flipped.any():
        return None
    distance: F64 = np.abs(before.scores - before.threshold)
    near = distance <= np.quantile(distance, NEAR)
    return Range.of(wilson(int((flipped & near).sum()), int(flipped.sum())))


def _flip(before: ScoredRows, after: ScoredRows, at: int) -> Flip:
    row = before.rows[at]
    return Flip(
        where=row.where,
        text_a=row.text_a,
        text_b=row.text_b,
        label=row.label,
        score_before=round(float(before.scores[at]), 4),
        score=round(float(after.scores[at]), 4),
        newly_wrong=bool(after.wrong[at]),
    )


# ---------------------------------------------------------------- the page


def show(found: FlipFindings, section: Section, word: Words) -> None:
    """A line an artifact; then, for each that flips anything, where and which."""
    columns = (
        "artifact",
        "made from",
        "step",
        "pairs",
        "newly wrong",
        "newly right",
        "flipped [95 %]",
        "p",
        "change of F1",
    )
    section.table(
        [word(each) for each in columns],
        [
            [
                each.artifact,
                each.parent,
                ", ".join(each.steps) or None,
                each.rows,
                each.newly_wrong,
                each.newly_right,
                each.flip_rate.percent(),
                f"{each.p_worse:.2g}",
                None if each.f1_change is None else str(each.f1_change),
            ]
            for each in found.steps
        ],
        caption=word(
            "Each artifact against the one that it was made from. p: whether more rows turn wrong than right (McNemar)."
        ),
    )
    for each in found.steps:
        if each.newly_wrong + each.newly_right:
            _show_step(each, section, word)


def _show_step(each: StepFindings, section: Section, word: Words) -> None:
    section.text(f"{each.artifact}: {_verdict(each, word)}")
    drawn, (axis,) = figure(4.6, 4.0)
    axis.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
    axis.plot(*zip(*each.scores, strict=True), ".", markersize=2.5, color=BLUE, label=word("pairs"))
    broken = [(one.score_before, one.score) for one in each.flips]
    if broken:
        axis.plot(*zip(*broken, strict=True), "x", markersize=5, color=ORANGE, label=word("newly wrong"))
    axis.set_xlabel(f"{word('score')}: {each.parent}", fontsize=9)
    axis.set_ylabel(f"{word('score')}: {each.artifact}", fontsize=9)
    axis.legend(fontsize=8, frameon=False)
    section.figure(drawn, word("Scores before and after the step."))
    if each.clusters:
        section.table(
            [word(column) for column in ("slice", "pairs", "flipped", "rate [95 %]", "rate outside", "q")],
            [slice_cells(one, word) for one in each.clusters],
            caption=word(
                "Slices in which {artifact} flips significantly more rows than outside", artifact=each.artifact
            ),
        )
    if each.by_slice:
        slice_plot(each.by_slice, each.flip_rate.value, section, word, word("share of pairs that flip"))
        slice_table(each.by_slice, section, word)
    section.table(
        [word(column) for column in ("text a", "text b", "label", "score before", "score", "where")],
        [[one.text_a, one.text_b, one.label, one.score_before, one.score, spot(one.where)] for one in each.flips],
        caption=word("Newly wrong: {artifact}, the largest changes first", artifact=each.artifact),
        folded=True,
    )


def _verdict(each: StepFindings, word: Words) -> str:
    near = (
        ""
        if each.near_share is None
        else word(
            "{share} of the flipped pairs are among the fifth of all pairs nearest to the threshold.",
            share=each.near_share.percent(),
        )
    )
    if each.clusters:
        named = "; ".join(describe(one, word) for one in each.clusters[:3])
        return f"{word('The flips cluster: {slices}.', slices=named)} {near}"
    return f"{word('The flips do not cluster in any slice that was looked at.')} {near}"
