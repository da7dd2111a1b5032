"""What was found in the data: one JSON document for the run folder, and the same in lines for the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from training.data.overlap import Repeat

EXAMPLES = 5
IMBALANCE = 0.1  # a class below this share of a split is worth a warning


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Overlap(_Part):
    """Repeated pairs: how many in the same order, how many swapped, how many of all with another label."""

    same: int
    swapped: int
    conflicting: int
    examples: tuple[str, ...]

    @property
    def rows(self) -> int:
        return self.same + self.swapped


class SplitReport(_Part):
    """One split. read = used + rejected + dropped_duplicates + dropped_leaks."""

    source: str
    read: int
    used: int
    rejected: int = 0
    reject_reasons: dict[str, int] = {}
    dropped_duplicates: int = 0
    dropped_leaks: int = 0
    labels: dict[str, int] = {}  # of the used rows
    duplicates: Overlap | None = None
    characters: int = 0
    sha256: str = ""  # of the used rows


class LeakReport(_Part):
    """Pairs of split `later` that stand in split `earlier`, and how many single texts the two share."""

    earlier: str
    later: str
    overlap: Overlap
    shared_texts: int


class GroupReport(_Part):
    """The grouped texts of a bi-encoder. read = used + rejected + repeated + held_out."""

    source: str
    read: int
    used: int
    rejected: int = 0
    reject_reasons: dict[str, int] = {}
    repeated: int = 0  # the same text again: its first row stays
    conflicting: int = 0  # of these, in another group
    held_out: int = 0  # texts that stand in valid or test
    groups: int
    smallest: int  # texts in the smallest group
    largest: int
    sha256: str  # of the used rows

    def lines(self) -> list[str]:
        """The report for a person."""
        parts = [
            (self.rejected, "rejected"),
            (self.repeated, "repeated"),
            (self.held_out, "held out (in valid or test)"),
        ]
        gone = "".join(f", {count} {what}" for count, what in parts if count)
        sizes = f"{self.used} of {self.read} texts, {self.groups} groups of {self.smallest} to {self.largest}"
        found = [f"data groups {sizes}{gone}  sha256 {self.sha256[:12]}  {self.source}"]
        found += [f"data groups   rejected {count}: {reason}" for reason, count in self.reject_reasons.items()]
        return found


class DataReport(_Part):
    """`data_report.json`."""

    splits: dict[str, SplitReport]
    groups: GroupReport | None = None  # of a bi-encoder
    leakage: tuple[LeakReport, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def digests(self) -> dict[str, str]:
        """sha256 of the used rows of each split, and of the groups where there are any."""
        digests = {name: split.sha256 for name, split in self.splits.items()}
        return digests | ({"groups": self.groups.sha256} if self.groups else {})

    def lines(self) -> list[str]:
        """The report for a person."""
        found = []
        for name, split in self.splits.items():
            found.append(f"data {name:<5} {_counts(split)}  sha256 {split.sha256[:12]}  {split.source}")
            reasons = sorted(split.reject_reasons.items(), key=lambda item: -item[1])
            found += [f"data {name:<5}   rejected {count}: {reason}" for reason, count in reasons]
            if split.duplicates and split.duplicates.rows:
                found += _overlap_lines(f"data {name:<5}   duplicates", split.duplicates)
        for leak in self.leakage:
            if leak.overlap.rows:
                found += _overlap_lines(f"data leakage: pairs of {leak.later} in {leak.earlier}", leak.overlap)
            if leak.shared_texts:
                found.append(f"data note: {leak.later} and {leak.earlier} share {leak.shared_texts} texts")
        found += self.groups.lines() if self.groups else []
        return found + [f"data WARNING: {warning}" for warning in self.warnings]


def overlap(repeats: Sequence[Repeat]) -> Overlap:
    """Counts and a few examples, conflicts first."""
    shown = sorted(repeats, key=lambda repeat: not repeat.conflicting)[:EXAMPLES]
    swapped = sum(repeat.swapped for repeat in repeats)
    return Overlap(
        same=len(repeats) - swapped,
        swapped=swapped,
        conflicting=sum(repeat.conflicting for repeat in repeats),
        examples=tuple(map(str, shown)),
    )


def _counts(split: SplitReport) -> str:
    parts: list[tuple[Any, str]] = [
        (split.rejected, "rejected"),
        (split.dropped_duplicates, "dropped as duplicates"),
        (split.dropped_leaks, "dropped as leaks"),
    ]
    gone = "".join(f", {count} {what}" for count, what in parts if count)
    labels = ", ".join(f"{label}: {count}" for label, count in split.labels.items())
    unit = f" rows ({labels})" if labels else " rows"
    if split.characters:
        unit = f" documents, {split.characters} characters"
    return f"{split.used} of {split.read}{unit}{gone}" if gone else f"{split.used}{unit}"


def _overlap_lines(head: str, found: Overlap) -> list[str]:
    conflicts = f", {found.conflicting} with another label" if found.conflicting else ""
    lines = [f"{head}: {found.same} in the same order, {found.swapped} swapped{conflicts}"]
    return lines + [f"  e.g. {example}" for example in found.examples]
