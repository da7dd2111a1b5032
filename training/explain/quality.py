"""How good a matching model is: metrics with intervals, curves, confusion, calibration, the threshold for a cost."""

from __future__ import annotations

from collections.abc import Callable

from sklearn.metrics import confusion_matrix, precision_recall_curve, precision_recall_fscore_support, roc_curve

from training.bootstrap import METRICS, Range, interval
from training.explain import calibration
from training.explain.calibration import Bin
from training.explain.contract import F64, Bools, Curve, Findings, ScoredRows, Subject, thinned
from training.explain.show import BLUE, GREY, ORANGE
from training.explain.threshold import ThresholdChoice, choose, show_choice
from training.explain.words import Words
from training.pages.page import Section, figure


class LabelQuality(Findings):
    """One label against all others."""

    label: str
    rows: int
    precision: float
    recall: float
    f1: float


class Calibration(Findings):
    """`error`: expected calibration error; `scaled_*`: after score -> sigmoid(log-odds / temperature + bias)."""

    error: float
    log_loss: float
    bins: tuple[Bin, ...]
    temperature: float | None
    bias: float | None
    scaled_error: float | None
    scaled_log_loss: float | None
    scaled_bins: tuple[Bin, ...]
    fitted_on: str


class QualityFindings(Findings):
    """Of one artifact on one split."""

    rows: int
    matches: int
    threshold: float
    metrics: dict[str, Range]
    roc: Curve  # share of others taken for a match, share of matches found
    precision_recall: Curve  # recall, precision
    labels: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]  # [true label][given label]
    by_label: tuple[LabelQuality, ...]
    calibration: Calibration
    choice: ThresholdChoice


def find(subject: Subject) -> QualityFindings:
    """Quality on the subject's split; threshold and temperature come from valid."""
    scored = subject.scored(subject.artifact, subject.split)
    valid = subject.scored(subject.artifact, "valid")
    false_share, found_share, _ = roc_curve(scored.truth, scored.scores, drop_intermediate=True)
    precision, recall, _ = precision_recall_curve(scored.truth, scored.scores, drop_intermediate=True)
    labels = tuple(subject.recipe.data.labels)
    truth, given = _given(scored, labels, subject.recipe.data.positive)
    biased = subject.kind == "embedding"
    return QualityFindings(
        rows=len(scored.rows),
        matches=int(scored.truth.sum()),
        threshold=round(scored.threshold, 6),
        metrics=_metrics(scored),
        roc=thinned(false_share, found_share),
        precision_recall=thinned(recall, precision),
        labels=labels,
        confusion=tuple(map(tuple, confusion_matrix(truth, given, labels=list(labels)).tolist())),
        by_label=_by_label(truth, given, labels),
        calibration=_calibration(scored, valid, subject, biased=biased),
        choice=choose(valid, scored, subject.costs),
    )


def _metrics(scored: ScoredRows) -> dict[str, Range]:
    """Those that have a value: precision has none where nothing is taken for a match."""
    found = {}
    for metric in METRICS:
        try:
            found[metric] = Range.of(interval(metric, scored.scores, scored.truth, scored.threshold))
        except ValueError:
            continue
    return found


def _given(scored: ScoredRows, labels: tuple[str, ...], positive: str) -> tuple[list[str], list[str]]:
    truth = [row.label for row in scored.rows]
    if scored.classes is not None:
        return truth, [labels[place] for place in scored.classes.argmax(axis=1)]
    if len(labels) == 2:
        negative = next(label for label in labels if label != positive)
        return truth, [positive if guessed else negative for guessed in scored.guessed]
    # A bi-encoder knows matches only: the other labels are one.
    rest = next(label for label in labels if label != positive)
    truth = [label if label == positive else rest for label in truth]
    return truth, [positive if guessed else rest for guessed in scored.guessed]


def _by_label(truth: list[str], given: list[str], labels: tuple[str, ...]) -> tuple[LabelQuality, ...]:
    columns = precision_recall_fscore_support(truth, given, labels=list(labels), zero_division=0)
    return tuple(
        LabelQuality(label=label, rows=int(rows), precision=float(p), recall=float(r), f1=float(f))
        for label, p, r, f, rows in zip(labels, *columns, strict=True)
    )


def _calibration(scored: ScoredRows, valid: ScoredRows, subject: Subject, *, biased: bool) -> Calibration:
    fitted_on = "valid"
    scaling = scaled = None
    try:
        scaling = calibration.fit(valid.scores, valid.truth, biased=biased)
        if subject.split == "valid":
            # What is fitted on the rows that it is judged on looks better than it is.
            fitted_on = "valid, judged on held-out fifths"
            scaled = calibration.cross_fitted(scored.scores, scored.truth, subject.seed, biased=biased)
        else:
            scaled = scaling(scored.scores)
    except ValueError:
        scaling = scaled = None
    return Calibration(
        error=round(calibration.expected_calibration_error(scored.scores, scored.truth), 6),
        log_loss=round(calibration.log_loss(scored.scores, scored.truth), 6),
        bins=tuple(calibration.reliability(scored.scores, scored.truth)),
        temperature=None if scaling is None else round(scaling.temperature, 4),
        bias=round(scaling.bias, 4) if scaling and biased else None,
        scaled_error=_rounded(scaled, scored.truth, calibration.expected_calibration_error),
        scaled_log_loss=_rounded(scaled, scored.truth, calibration.log_loss),
        scaled_bins=() if scaled is None else tuple(calibration.reliability(scaled, scored.truth)),
        fitted_on=fitted_on,
    )


def _rounded(scaled: F64 | None, truth: Bools, measure: Callable[[F64, Bools], float]) -> float | None:
    return None if scaled is None else round(measure(scaled, truth), 6)


# ---------------------------------------------------------------- the page

NAMES = {
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "roc_auc": "ROC AUC",
    "average_precision": "average precision (area under precision-recall)",
}


def show(found: QualityFindings, section: Section, word: Words) -> None:
    """Metrics, curves, confusion, calibration, threshold."""
    section.text(
        word(
            "{rows} pairs, {matches} of them matches; a pair is a match from a score of {threshold} on.",
            rows=found.rows,
            matches=found.matches,
            threshold=f"{found.threshold:.3f}",
        )
    )
    section.table(
        [word(each) for each in ("metric", "value", "95 % from", "to")],
        [[word(NAMES[name]), each.value, each.low, each.high] for name, each in found.metrics.items()],
        caption=word("Intervals: 2,000 bootstrap resamples of the rows."),
    )
    _show_curves(found, section, word)
    _show_confusion(found, section, word)
    _show_calibration(found.calibration, section, word)
    show_choice(found.choice, section, word)


def _show_curves(found: QualityFindings, section: Section, word: Words) -> None:
    drawn, (left, right) = figure(8, 3.4, 2)
    left.plot(*zip(*found.roc, strict=True), color=BLUE)
    left.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
    left.set_xlabel(word("share of other pairs taken for a match"), fontsize=9)
    left.set_ylabel(word("share of matches found"), fontsize=9)
    left.set_title(f"ROC, AUC {found.metrics['roc_auc']}", fontsize=9)
    right.plot(*zip(*found.precision_recall, strict=True), color=BLUE)
    right.axhline(found.matches / found.rows, color=GREY, linewidth=0.8, linestyle="--")
    right.set_xlabel(word("recall"), fontsize=9)
    right.set_ylabel(word("precision"), fontsize=9)
    right.set_ylim(0, 1.02)
    right.set_title(f"{word('precision-recall')}, AP {found.metrics['average_precision']}", fontsize=9)
    section.figure(drawn, word("Every threshold at once; dashed: a model that guesses."))


def _show_confusion(found: QualityFindings, section: Section, word: Words) -> None:
    section.table(
        [word("true label"), *(word("given {label}", label=label) for label in found.labels)],
        [[label, *counts] for label, counts in zip(found.labels, found.confusion, strict=True)],
        caption=word("Confusion: rows by their true label and by the label that the model gives."),
    )
    section.table(
        [word(each) for each in ("label", "rows", "precision", "recall", "F1")],
        [[each.label, each.rows, each.precision, each.recall, each.f1] for each in found.by_label],
        caption=word("By label"),
    )


def _show_calibration(found: Calibration, section: Section, word: Words) -> None:
    drawn, (left, right) = figure(8, 3.4, 2)
    for bins, colour, name in ((found.bins, BLUE, word("as it is")), (found.scaled_bins, ORANGE, word("scaled"))):
        if bins:
            points = [(each.mean_score, each.match_share) for each in bins]
            left.plot(*zip(*points, strict=True), "o-", color=colour, markersize=3, label=name)
    left.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
    left.set_xlabel(word("mean score"), fontsize=9)
    left.set_ylabel(word("share of matches"), fontsize=9)
    left.legend(fontsize=8, frameon=False)
    middles = [(each.low + each.high) / 2 for each in found.bins]
    right.bar(middles, [each.rows for each in found.bins], width=0.9 / calibration.BINS, color=BLUE)
    right.set_xlabel(word("score"), fontsize=9)
    right.set_ylabel(word("pairs"), fontsize=9)
    section.figure(
        drawn,
        word(
            "Reliability: of pairs with a score of 0.8, eight of ten should be matches (dashed). Expected calibration "
            "error {error}, log loss {loss}.",
            error=f"{found.error:.3f}",
            loss=f"{found.log_loss:.3f}",
        ),
    )
    if found.temperature is None:
        section.notice(word("Higher scores do not mean more matches here; no scaling makes probabilities of them."))
        return
    shift = "" if found.bias is None else f" {'−' if found.bias < 0 else '+'} {abs(found.bias):.3f}"
    section.text(
        word(
            "Temperature scaling, fitted on {split}: score → sigmoid(ln(score / (1 − score)) / {temperature}{shift}). "
            "It changes no order, so no ROC; expected calibration error {error}, log loss {loss}.",
            split=word(found.fitted_on),
            temperature=f"{found.temperature:.3f}",
            shift=shift,
            error=f"{found.scaled_error:.3f}",
            loss=f"{found.scaled_log_loss:.3f}",
        )
    )
