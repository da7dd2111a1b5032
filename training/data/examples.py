"""Rows of files -> sources with their targets, for encoder-decoders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from training.data.pairs import Reject, read_rows_of, text_of
from training.recipe import ExampleData


@dataclass(frozen=True, slots=True)
class Example:
    """One usable row: `source` is to become `target`. `where` is file:line."""

    source: str
    target: str
    where: str = field(compare=False)

    @property
    def texts(self) -> tuple[str]:
        """What is given."""
        return (self.source,)

    @property
    def label(self) -> str:
        """What is to be found."""
        return self.target


def read_examples(url: str, settings: ExampleData) -> tuple[list[Example], list[Reject]]:
    """Every row below `url` as an example or a reject. Raises what records raises for a file that cannot be opened."""
    return read_rows_of(url, settings, partial(_example, settings))


def sha256_of_examples(rows: Sequence[Example]) -> str:
    """Digest over the rows in their order, whatever files and columns they came from."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.source, row.target], ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def shortened(ids: Sequence[int], most: int) -> list[int]:
    """At most `most` tokens: of more, the last stays, which is the end of a text, and as many of the first."""
    return [*ids] if len(ids) <= most else [*ids[: most - 1], ids[-1]]


def _example(settings: ExampleData, values: Mapping[str, Any], where: str) -> Example:
    columns = settings.columns
    return Example(text_of(values, columns.source, settings), text_of(values, columns.target, settings), where)
