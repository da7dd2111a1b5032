"""What a review found: rows with reasons, as the JSON in the run folder holds it and the sheet and the page show it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from runtime.errors import InvalidInput
from training.data.pairs import LabelledPair

FOLDER, REPORT_FILE, SHEET_FILE, PAGE_FILE, VECTORS_FILE = (
    "review",
    "review.json",
    "review.csv",
    "review.html",
    "vectors",
)
DROP, KEEP = "drop", "keep"  # decisions that are no labels
Kind = Literal["label", "conflict", "contradiction", "duplicate", "leak", "outlier"]
# kind -> what it means, in the order in which they are told
KINDS: dict[Kind, str] = {
    "label": "the label that models of other rows would not give",
    "conflict": "the same texts, or almost, with another label",
    "contradiction": "matches that lead from one text to the other of a row that is none, with that row",
    "duplicate": "almost the same pair as another of its split",
    "leak": "almost the same pair as one of another split",
    "outlier": "a text far from all others",
}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Reason(_Part):
    """Why a row is worth a look."""

    kind: Kind
    text: str


class Suspect(_Part):
    """A row of the sheet. `row`: split and number, from 1, among the rows that are used. `suspicion`: probability that
    the label is another one; `rank`: 1 is the most suspicious of its split. `suggested`: a label, `drop` or nothing."""

    row: str
    where: str
    text_a: str
    text_b: str
    label: str
    suggested: str
    suspicion: float
    rank: int
    reasons: tuple[Reason, ...]
    fingerprint: str

    @property
    def split(self) -> str:
        """Of the row."""
        return self.row.partition(":")[0]


class Review(_Part):
    """`review.json`. `rows`: of each split; `counted_errors`: label errors that cleanlab counts in each split."""

    rows: dict[str, int]
    sha256: dict[str, str]
    encoder: str
    seed: int
    counted_errors: dict[str, int]
    suspects: tuple[Suspect, ...]

    def counts(self) -> dict[Kind, dict[str, int]]:
        """Rows with a reason of each kind, by split."""
        found: dict[Kind, dict[str, int]] = {kind: dict.fromkeys(self.rows, 0) for kind in KINDS}
        for suspect in self.suspects:
            for kind in {reason.kind for reason in suspect.reasons}:
                found[kind][suspect.split] += 1
        return found


def fingerprint(row: LabelledPair) -> str:
    """A digest of the texts and the label: the row that is decided on is the row that was shown."""
    # The letter keeps a spreadsheet from taking 12e45 for a number.
    return "r" + hashlib.sha256(json.dumps([row.text_a, row.text_b, row.label]).encode()).hexdigest()[:12]


def read_review(run: Path) -> Review | None:
    """The review in a run folder; None where there is none. Raises InvalidInput for a damaged one."""
    path = run / FOLDER / REPORT_FILE
    try:
        return Review.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise InvalidInput(f"{path} cannot be read ({error.errors()[0]['msg']}); make it again.") from None
