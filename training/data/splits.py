"""The recipe's data section -> train, valid and test, checked and counted. Reads; writes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from training.data.errors import DataError
from training.data.examples import Example, read_examples, sha256_of_examples
from training.data.groups import GroupedText, load_groups
from training.data.overlap import Repeat, duplicates, leaks, shared_texts
from training.data.pairs import LabelledPair, Reject, read_checked, read_pairs, sha256_of
from training.data.report import IMBALANCE, DataReport, LeakReport, SplitReport, overlap
from training.data.texts import TextSplits, load_texts
from training.recipe import EmbeddingData, ExampleData, PairData, Recipe, RowData, TextData

SPLITS = ("train", "valid", "test")
# earlier, later: where "drop" takes a leaked pair out of the earlier, so that what is measured stays whole.
LEAK_DIRECTIONS = (("train", "valid"), ("train", "test"), ("valid", "test"))


@dataclass(frozen=True, slots=True)
class PairSplits:
    """Labelled pairs of the three splits, what was rejected, and the report on it all."""

    train: Sequence[LabelledPair]
    valid: Sequence[LabelledPair]
    test: Sequence[LabelledPair]
    positive: str
    rejects: Sequence[tuple[str, Reject]]  # split, reject
    report: DataReport

    def rows(self, split: str) -> Sequence[LabelledPair]:
        """The used rows of one split."""
        return {"train": self.train, "valid": self.valid, "test": self.test}[split]

    def sha256(self, split: str) -> str:
        """Digest of the used rows of one split."""
        return self.report.splits[split].sha256


@dataclass(frozen=True, slots=True)
class GroupedSplits(PairSplits):
    """Labelled pairs, and the grouped texts that a bi-encoder is trained on; rejects and report are of both."""

    groups: Sequence[GroupedText]


@dataclass(frozen=True, slots=True)
class ExampleSplits:
    """Sources with their targets of the three splits, what was rejected, and the report on it all."""

    train: Sequence[Example]
    valid: Sequence[Example]
    test: Sequence[Example]
    rejects: Sequence[tuple[str, Reject]]  # split, reject
    report: DataReport

    def rows(self, split: str) -> Sequence[Example]:
        """The used rows of one split."""
        return {"train": self.train, "valid": self.valid, "test": self.test}[split]

    def texts(self, split: str) -> Sequence[str]:
        """What is to be written: the targets of one split."""
        return [row.target for row in self.rows(split)]

    def sha256(self, split: str) -> str:
        """Digest of the used rows of one split."""
        return self.report.splits[split].sha256


Splits = PairSplits | TextSplits | ExampleSplits
R = TypeVar("R", LabelledPair, Example)


def load_splits(recipe: Recipe) -> Splits:
    """Read and check what the recipe's data section names. Raises DataError for data unfit to train on."""
    if isinstance(recipe.data, TextData):
        return load_texts(recipe.data)
    if isinstance(recipe.data, ExampleData):
        return load_examples(recipe.data)
    splits = load_pairs(recipe.data)
    return with_groups(splits, recipe.data) if isinstance(recipe.data, EmbeddingData) else splits


def load_pairs(data: PairData) -> PairSplits:
    """Labelled pairs of the three splits.

    Raises DataError: a source cannot be read or is empty; bad rows, duplicates or leaks where the recipe says "fail";
    too many rejects; a class that a split lacks.
    """
    read = _read(data, read_pairs, sha256_of)
    reports = {
        split: report.model_copy(update={"labels": _label_counts(read.rows[split], data.labels)})
        for split, report in read.reports.items()
    }
    _check_classes(reports)
    warnings = (*_imbalances(reports), *_warnings(read, "pair"))
    report = DataReport(splits=reports, leakage=read.leakage, warnings=warnings)
    return PairSplits(*(read.rows[split] for split in SPLITS), data.positive, read.rejects, report)


def load_examples(data: ExampleData) -> ExampleSplits:
    """Sources with their targets of the three splits. Raises DataError as `load_pairs` does, and for an empty split."""
    read = _read(data, read_examples, sha256_of_examples)
    for split, rows in read.rows.items():
        if not rows:
            raise DataError(f"data.{split} has no row left: all were dropped as duplicates or leaks.")
    report = DataReport(splits=read.reports, leakage=read.leakage, warnings=tuple(_warnings(read, "source")))
    return ExampleSplits(*(read.rows[split] for split in SPLITS), read.rejects, report)


@dataclass(frozen=True, slots=True)
class _Rows(Generic[R]):
    """By split: the used rows, a report, and rows that stand twice."""

    rows: Mapping[str, Sequence[R]]
    reports: Mapping[str, SplitReport]
    repeats: Mapping[str, Sequence[Repeat]]
    leakage: tuple[LeakReport, ...]
    rejects: Sequence[tuple[str, Reject]]


D = TypeVar("D", bound=RowData)


def _read(
    data: D, read: Callable[[str, D], tuple[list[R], list[Reject]]], digest: Callable[[Sequence[R]], str]
) -> _Rows[R]:
    """The rows of the three splits, duplicates and leaks treated as the recipe says. Raises DataError."""
    rows: dict[str, list[R]] = {}
    rejects: list[tuple[str, Reject]] = []
    reports: dict[str, SplitReport] = {}
    for split in SPLITS:
        source = getattr(data, split)
        rows[split], rejected = read_checked(split, source, data, partial(read, source, data))
        rejects += [(split, reject) for reject in rejected]
        reports[split] = SplitReport(
            source=source,
            read=len(rows[split]) + len(rejected),
            used=0,  # known at the end
            rejected=len(rejected),
            reject_reasons=dict(Counter(reject.reason for reject in rejected)),
        )
    repeats = {split: duplicates(rows[split]) for split in SPLITS}
    _judge("duplicates", data.duplicates, [repeat for split in SPLITS for repeat in repeats[split]])
    if data.duplicates == "drop":
        rows = {split: _without(rows[split], [repeat.later for repeat in repeats[split]]) for split in SPLITS}
    crossings = {(one, two): leaks(rows[one], rows[two]) for one, two in LEAK_DIRECTIONS}
    shared = {(one, two): shared_texts(rows[one], rows[two]) for one, two in LEAK_DIRECTIONS}
    _judge("leakage", data.leakage, [repeat for found in crossings.values() for repeat in found])
    before = {split: len(rows[split]) for split in SPLITS}
    if data.leakage == "drop":
        rows["train"] = _apart(rows["train"], [*rows["valid"], *rows["test"]])
        rows["valid"] = _apart(rows["valid"], rows["test"])
    for split, begun in reports.items():
        reports[split] = begun.model_copy(
            update={
                "used": len(rows[split]),
                "dropped_duplicates": len(repeats[split]) if data.duplicates == "drop" else 0,
                "dropped_leaks": before[split] - len(rows[split]),
                "duplicates": overlap(repeats[split]),
                "sha256": digest(rows[split]),
            }
        )
    leakage = tuple(
        LeakReport(earlier=one, later=two, overlap=overlap(found), shared_texts=shared[one, two])
        for (one, two), found in crossings.items()
    )
    return _Rows(rows, reports, repeats, leakage, rejects)


def with_groups(splits: PairSplits, data: EmbeddingData) -> GroupedSplits:
    """Add the grouped texts that the recipe's data section names, without those of valid and test. Raises DataError."""
    matches = [row for row in splits.train if row.label == splits.positive]
    held_out = {text for row in (*splits.valid, *splits.test) for text in (row.text_a, row.text_b)}
    groups, rejects, report = load_groups(data, matches, held_out)
    warnings = splits.report.warnings
    if report.conflicting:
        warnings += (f"groups: {report.conflicting} rows have the text of an earlier row and another group",)
    return GroupedSplits(
        splits.train,
        splits.valid,
        splits.test,
        splits.positive,
        [*splits.rejects, *(("groups", reject) for reject in rejects)],
        splits.report.model_copy(update={"groups": report, "warnings": warnings}),
        groups,
    )


def _judge(what: str, rule: str, found: Sequence[Repeat]) -> None:
    if rule != "fail" or not found:
        return
    shown = overlap(found)
    listed = "\n".join(f"  {example}" for example in shown.examples)
    rest = f"\n  … and {len(found) - len(shown.examples)} more" if len(found) > len(shown.examples) else ""
    unit = "pairs" if len(found[0].later.texts) > 1 else "sources"
    raise DataError(
        f"{what}: {len(found)} {unit} stand twice, {shown.conflicting} of them with another label:\n{listed}{rest}\n"
        f"Remove them, or set data.{what}=drop."
    )


def _without(rows: Sequence[R], gone: Sequence[object]) -> list[R]:
    """`rows` but for these very objects: equal ones may stay."""
    identities = {id(row) for row in gone}
    return [row for row in rows if id(row) not in identities]


def _apart(rows: Sequence[R], others: Sequence[R]) -> list[R]:
    return _without(rows, [repeat.later for repeat in leaks(others, rows)])


def _label_counts(rows: Sequence[LabelledPair], labels: Sequence[str]) -> dict[str, int]:
    counts = Counter(row.label for row in rows)
    return {label: counts[label] for label in labels}


def _check_classes(reports: Mapping[str, SplitReport]) -> None:
    """Raises DataError for a split that lacks a class, for what left it without any, too."""
    for split, report in reports.items():
        for label, count in report.labels.items():
            if count == 0:
                raise DataError(
                    f"data.{split} has no row labelled {label!r} among its {report.used} "
                    f"({report.dropped_duplicates + report.dropped_leaks} dropped): nothing can be learned or measured "
                    "for it. Check data.labels, and how the data was split."
                )


def _imbalances(reports: Mapping[str, SplitReport]) -> list[str]:
    return [
        f"{split}: only {count} of {report.used} rows ({count / report.used:.1%}) are {label!r}"
        for split, report in reports.items()
        for label, count in report.labels.items()
        if count < IMBALANCE * report.used
    ]


def _warnings(read: _Rows[R], unit: str) -> list[str]:
    """What is worth a look; `unit`: what a row is known by."""
    contradicting = {split: sum(repeat.conflicting for repeat in repeats) for split, repeats in read.repeats.items()}
    return [
        f"{split}: {count} rows contradict an earlier row with the same {unit}"
        for split, count in contradicting.items()
        if count
    ] + [
        f"{leak.overlap.rows} {unit}s of {leak.later} stand in {leak.earlier} too: its figures are too good"
        for leak in read.leakage
        if leak.overlap.rows and not read.reports[leak.earlier].dropped_leaks
    ]
