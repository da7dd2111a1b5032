"""The threshold for a stated cost: what false and missed matches cost together at each, and where that is least."""

from __future__ import annotations

import numpy as np

from training.explain.contract import F64, Bools, Costs, Curve, Findings, ScoredRows, thinned
from training.explain.show import BLUE, GREY, ORANGE
from training.explain.words import Words
from training.metrics import best_threshold
from training.pages.page import Section, figure


class ThresholdChoice(Findings):
    """Mean cost a pair at thresholds; `chosen` has the lowest on the rows it was chosen on."""

    cost_false_match: float
    cost_missed: float
    chosen_on: str
    chosen: float
    cost_chosen: float
    current: float
    cost_current: float
    best_f1: float
    curve: Curve  # threshold, cost


def choose(valid: ScoredRows, scored: ScoredRows, costs: Costs) -> ThresholdChoice:
    """The threshold with the lowest mean cost on `valid`, and what it costs on `scored`."""
    thresholds, on_valid = cost_curve(valid.scores, valid.truth, costs)
    best = np.flatnonzero(on_valid == on_valid.min())
    chosen = float(thresholds[best[len(best) // 2]])
    curve_at, curve = cost_curve(scored.scores, scored.truth, costs)
    return ThresholdChoice(
        cost_false_match=costs.false_match,
        cost_missed=costs.missed,
        chosen_on="valid",
        chosen=round(chosen, 6),
        cost_chosen=round(mean_cost(scored.scores, scored.truth, chosen, costs), 6),
        current=round(scored.threshold, 6),
        cost_current=round(mean_cost(scored.scores, scored.truth, scored.threshold, costs), 6),
        best_f1=round(best_threshold(valid.scores, valid.truth), 6),
        curve=thinned(curve_at, curve),
    )


def mean_cost(scores: F64, truth: Bools, threshold: float, costs: Costs) -> float:
    """Cost of false and missed matches, over all rows."""
    guessed = scores >= threshold
    total = costs.false_match * (guessed & ~truth).sum() + costs.missed * (~guessed & truth).sum()
    return float(total / len(scores))


def cost_curve(scores: F64, truth: Bools, costs: Costs) -> tuple[F64, F64]:
    """Every threshold that decides otherwise than the one before, half way between two scores, and its mean cost."""
    order = np.argsort(scores, kind="stable")
    values = scores[order]
    # Below the k lowest scores: those of them that are matches are missed.
    missed = np.concatenate([[0], np.cumsum(truth[order])])
    false = (~truth).sum() - np.concatenate([[0], np.cumsum(~truth[order])])
    cost = (costs.false_match * false + costs.missed * missed) / len(scores)
    cuts = np.concatenate([[0.0], (values[1:] + values[:-1]) / 2, [1.0]])
    distinct = np.concatenate([[True], values[1:] > values[:-1], [values[-1] < 1]])
    return cuts[distinct], cost[distinct]


def show_choice(found: ThresholdChoice, section: Section, word: Words) -> None:
    drawn, (axis,) = figure(6.4, 2.8)
    axis.plot(*zip(*found.curve, strict=True), color=BLUE, drawstyle="steps-mid")
    for at, colour, name in ((found.current, GREY, "current"), (found.chosen, ORANGE, "lowest cost")):
        axis.axvline(at, color=colour, linestyle="--", linewidth=1, label=f"{word(name)} {at:.3f}")
    axis.set_xlabel(word("threshold"), fontsize=9)
    axis.set_ylabel(word("mean cost of a pair"), fontsize=9)
    axis.legend(fontsize=8, frameon=False)
    section.figure(
        drawn,
        word(
            "A false match costs {false}, a missed one {missed} (--cost-false-match, --cost-missed). The threshold "
            "{chosen}, chosen on valid, costs {cost} a pair; the current one, {current}, costs {now}. Highest F1 on "
            "valid: {f1}.",
            false=f"{found.cost_false_match:g}",
            missed=f"{found.cost_missed:g}",
            chosen=f"{found.chosen:.3f}",
            cost=f"{found.cost_chosen:.4f}",
            current=f"{found.current:.3f}",
            now=f"{found.cost_current:.4f}",
            f1=f"{found.best_f1:.3f}",
        ),
    )
