"""Which texts belong together, for bi-encoders: a file of texts with a group (an intent, a product), or, without one,
the connected components that the positive pairs of train form.

A text of valid or test is left out whatever its group: two of them in one would give away the label of their pair.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from training.data.errors import DataError
from training.data.pairs import LabelledPair, Reject, Unusable, label_text, read_as, read_checked, text_of, value_of
from training.data.report import GroupReport
from training.recipe import EmbeddingData

PAIRED = "positive pairs of data.train"


@dataclass(frozen=True, slots=True)
class GroupedText:
    """One usable row. `where` is file:line."""

    text: str
    group: str
    where: str = field(compare=False)


def load_groups(
    data: EmbeddingData, matches: Sequence[LabelledPair], held_out: Set[str]
) -> tuple[list[GroupedText], list[Reject], GroupReport]:
    """The texts to train on, each once and none of `held_out`: of the file data.groups, else of train's `matches`.

    With what was rejected and the report. Raises DataError: the file cannot be read or has too many bad rows; fewer
    than two groups, or no two texts in one.
    """
    if data.groups is None:
        rows, rejects = paired_groups(matches), list[Reject]()
    else:
        read = partial(read_as, data.groups, partial(_grouped, data), encoding=data.encoding)
        rows, rejects = read_checked("groups", data.groups, data, read)
    firsts: dict[str, GroupedText] = {}
    for row in rows:
        firsts.setdefault(row.text, row)
    used = [row for text, row in firsts.items() if text not in held_out]
    sizes = Counter(row.group for row in used)
    source = data.groups or PAIRED
    if len(sizes) < 2 or max(sizes.values()) < 2:
        raise DataError(
            f"data.groups, {source}: {len(used)} texts in {len(sizes)} groups are left, those of valid and test taken "
            "out. At least two groups are needed, and two texts in one."
        )
    report = GroupReport(
        source=source,
        read=len(rows) + len(rejects),
        used=len(used),
        rejected=len(rejects),
        reject_reasons=dict(Counter(reject.reason for reject in rejects)),
        repeated=len(rows) - len(firsts),
        conflicting=sum(row.group != firsts[row.text].group for row in rows),
        held_out=len(firsts) - len(used),
        groups=len(sizes),
        smallest=min(sizes.values()),
        largest=max(sizes.values()),
        sha256=_sha256_of(used),
    )
    return used, rejects, report


def paired_groups(pairs: Sequence[LabelledPair]) -> list[GroupedText]:
    """The texts of pairs that match; a group is what such pairs join, directly or through others."""
    places: dict[str, int] = {}
    where = {}
    for row in pairs:
        for text in (row.text_a, row.text_b):
            places.setdefault(text, len(places))
            where.setdefault(text, row.where)
    ends = np.array([[places[row.text_a], places[row.text_b]] for row in pairs]).T  # (2, pairs)
    graph = coo_array((np.ones(len(pairs)), (ends[0], ends[1])), shape=(len(places), len(places)))
    _, components = connected_components(graph, directed=False)
    return [GroupedText(text, str(components[place]), where[text]) for text, place in places.items()]


def _grouped(data: EmbeddingData, values: Mapping[str, Any], where: str) -> GroupedText:
    columns = data.columns
    text = text_of(values, columns.text, data)
    group = label_text(value_of(values, columns.group))
    if not group:
        raise Unusable(f"{columns.group} is empty, or neither text nor number")
    return GroupedText(text, group, where)


def _sha256_of(rows: Sequence[GroupedText]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.text, row.group], ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()
