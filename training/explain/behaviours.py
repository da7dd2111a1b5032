"""Behavioural tests of a matching model, as in CheckList (Ribeiro et al., ACL 2020): what must hold for any pair,
whatever its label. Rows are rewritten, both are scored, and what breaks the rule fails.

Invariance: the decision must stay (swapping the texts, case, a typo, spaces, punctuation).
Direction: the score must not rise (a match with one side negated, or with another number).
Identity: a text matches itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Literal, TypeGuard

from runtime.contract import Pair
from training.bootstrap import Range, wilson
from training.data.pairs import LabelledPair
from training.explain import rewrites
from training.explain.contract import Findings, Score, ScoredRows, Subject
from training.explain.show import bars
from training.explain.words import Words
from training.pages.page import Section

MOST_ROWS = 300  # a test
SHOWN = 8  # failing examples a test
RISE = 0.01  # of the score, below which it is no higher
NOISE = 1e-4  # of the score: what other company in a batch can change

Rule = Literal["same decision", "no higher score", "match"]

Change = Callable[[LabelledPair, random.Random], Pair | None]


class Failure(Findings):
    """One example: the pair as it stands, and as it was changed, with both scores."""

    where: str
    text_a: str
    text_b: str
    score: float
    changed_a: str
    changed_b: str
    changed_score: float


class Behaviour(Findings):
    """One test. `change`: mean absolute difference of the scores; `failures`: the worst ones."""

    name: str
    rule: Rule
    tested: int
    failed: int
    rate: Range
    change: float
    failures: tuple[Failure, ...]


class BehaviourFindings(Findings):
    """All tests that had rows."""

    tests: tuple[Behaviour, ...]


@dataclass(frozen=True, slots=True)
class _Test:
    """`matches_only`: for pairs that are labelled and taken as a match."""

    name: str
    rule: Rule
    change: Change
    matches_only: bool = False


def _swapped(row: LabelledPair, chance: random.Random) -> Pair:
    return Pair(row.text_b, row.text_a)


def _with_itself(row: LabelledPair, chance: random.Random) -> Pair:
    return Pair(row.text_a, row.text_a)


def _second(rewrite: rewrites.Rewrite, row: LabelledPair, chance: random.Random) -> Pair | None:
    changed = rewrites.rewritten(rewrite, row.text_b, chance)
    return None if changed is None else Pair(row.text_a, changed)


TESTS = (
    _Test("swapped texts", "same decision", _swapped),
    _Test("other case", "same decision", partial(_second, rewrites.other_case)),
    _Test("a typo", "same decision", partial(_second, rewrites.typo)),
    _Test("more spaces", "same decision", partial(_second, rewrites.spaces)),
    _Test("other punctuation", "same decision", partial(_second, rewrites.punctuation)),
    _Test("negated", "no higher score", partial(_second, rewrites.negated), matches_only=True),
    _Test("another number", "no higher score", partial(_second, rewrites.other_number), matches_only=True),
    _Test("a text with itself", "match", _with_itself),
)


def find(subject: Subject) -> BehaviourFindings:
    """Run all tests on rows of the subject's split."""
    scored = subject.scored(subject.artifact, subject.split)
    found = (run(test, scored, subject.score, subject.seed) for test in TESTS)
    return BehaviourFindings(tests=tuple(each for each in found if each))


def run(test: _Test, scored: ScoredRows, score: Score, seed: int) -> Behaviour | None:
    """One test on at most MOST_ROWS rows, drawn by `seed`; None where no row can be changed so."""
    chance = random.Random(seed)
    places = [
        place
        for place in range(len(scored.rows))
        if not test.matches_only or (scored.truth[place] and scored.guessed[place])
    ]
    chance.shuffle(places)
    possible = ((place, test.change(scored.rows[place], chance)) for place in places)
    changed = [*islice(((at, pair) for at, pair in possible if _differs(scored.rows[at], pair)), MOST_ROWS)]
    if not changed:
        return None
    after = score([pair for _, pair in changed]).tolist()
    failures: list[tuple[float, Failure]] = []
    moved = 0.0
    for (place, pair), now in zip(changed, after, strict=True):
        before = float(scored.scores[place])
        moved += abs(now - before)
        if _fails(test.rule, before, now, scored.threshold):
            failures.append((abs(now - before), _failure(scored.rows[place], before, pair, now)))
    failures.sort(key=lambda each: -each[0])
    return Behaviour(
        name=test.name,
        rule=test.rule,
        tested=len(changed),
        failed=len(failures),
        rate=Range.of(wilson(len(failures), len(changed))),
        change=round(moved / len(changed), 6),
        failures=tuple(each for _, each in failures[:SHOWN]),
    )


def _differs(row: LabelledPair, pair: Pair | None) -> TypeGuard[Pair]:
    """Whether the rewrite was possible and changed something."""
    return pair is not None and pair != Pair(row.text_a, row.text_b)


def _fails(rule: Rule, before: float, now: float, threshold: float) -> bool:
    if rule == "match":
        return now < threshold
    if rule == "no higher score":
        return now > before + RISE
    return (now >= threshold) != (before >= threshold) and abs(now - before) > NOISE


def _failure(row: LabelledPair, before: float, pair: Pair, now: float) -> Failure:
    return Failure(
        where=row.where,
        text_a=row.text_a,
        text_b=row.text_b,
        score=round(before, 4),
        changed_a=pair.text_a,
        changed_b=pair.text_b,
        changed_score=round(now, 4),
    )


def show(found: BehaviourFindings, section: Section, word: Words) -> None:
    """A table of tests, a plot of their rates, and each test's failing examples."""
    section.text(
        word("What must hold for any pair, whatever its label. The second text is changed, or the two are swapped.")
    )
    section.table(
        [word(each) for each in ("check", "must hold", "pairs", "failed", "rate [95 %]", "mean change of the score")],
        [
            [word(each.name), word(each.rule), each.tested, each.failed, each.rate.percent(), each.change]
            for each in found.tests
        ],
    )
    section.figure(
        bars([(word(each.name), each.rate) for each in found.tests], word("share of pairs that fail")),
        word("Share of pairs that fail, with 95 % intervals (Wilson)."),
    )
    columns = [word(each) for each in ("text a", "text b", "score", "changed a", "changed b", "score then")]
    for each in found.tests:
        if each.failures:
            section.table(
                columns,
                [_cells(failure) for failure in each.failures],
                caption=word(
                    "Fails: {test}, the {count} largest changes", test=word(each.name), count=len(each.failures)
                ),
                folded=True,
            )


def _cells(failure: Failure) -> Sequence[str | float]:
    return [
        failure.text_a,
        failure.text_b,
        failure.score,
        failure.changed_a if failure.changed_a != failure.text_a else "=",
        failure.changed_b if failure.changed_b != failure.text_b else "=",
        failure.changed_score,
    ]
