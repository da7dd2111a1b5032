"""Which texts or pairs a student is taught on: those of train, those that nobody labelled, and what is made of both.

A text of valid or test is never among them, even without its label: those splits stand for texts that nobody has seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from records.rows import BadRow, read_rows
from records.storage import StorageError
from runtime.contract import Pair
from training.data.errors import DataError
from training.data.pairs import read_as, text_of
from training.data.splits import GroupedSplits, PairSplits
from training.distillation.augmentation import recombine_pairs, vary_texts
from training.distillation.settings import Distillation
from training.distillation.teacher import Input
from training.recipe import EmbeddingData, PairData


def labelled_inputs(splits: PairSplits) -> list[Input]:
    """What the task's own rows are, in their order: grouped texts, or the pairs of train."""
    if isinstance(splits, GroupedSplits):
        return [row.text for row in splits.groups]
    return [Pair(row.text_a, row.text_b) for row in splits.train]


def further_inputs(settings: Distillation, data: PairData, splits: PairSplits, seed: int) -> list[Input]:
    """Each once, none of them labelled. Raises DataError: `unlabelled` cannot be read, or has a row without a text."""
    held_out = {text for split in ("valid", "test") for row in splits.rows(split) for text in (row.text_a, row.text_b)}
    labelled = labelled_inputs(splits)
    if isinstance(data, EmbeddingData):
        pairs = [text for row in splits.train for text in (row.text_a, row.text_b)]
        texts = [*labelled, *pairs, *_unlabelled(settings, data, (data.columns.text,))]
        real = [text for text in dict.fromkeys(texts) if text not in held_out]
        made: list[Input] = [*vary_texts(real, settings.augment, settings.drop_words, seed)]
    else:
        columns = (data.columns.text_a, data.columns.text_b)
        both = [*labelled, *(Pair(*texts) for texts in _unlabelled(settings, data, columns))]
        real = [pair for pair in dict.fromkeys(both) if not held_out.intersection(_texts(pair))]
        made = [*recombine_pairs(real, settings.augment * len(real), settings.drop_words, seed)]
    known = set(labelled)
    return [each for each in (*real, *made) if each not in known and not held_out.intersection(_texts(each))]


def unlabelled_sha256(url: str) -> str:
    """Digest of what the files below `url` hold. Raises DataError."""
    digest = hashlib.sha256()
    try:
        for row in read_rows(url):
            digest.update(repr(row.raw if isinstance(row, BadRow) else row.values).encode() + b"\n")
    except StorageError as error:
        raise DataError(f"unlabelled, {url}: {error}") from None
    return digest.hexdigest()


def _texts(each: Input) -> tuple[str, ...]:
    return (each,) if isinstance(each, str) else (each.text_a, each.text_b)


def _unlabelled(settings: Distillation, data: PairData, columns: Sequence[str]) -> list[Any]:
    """Rows of the file as one text, or as a tuple of texts."""
    if settings.unlabelled is None:
        return []

    def parse(values: Mapping[str, Any], where: str) -> Any:
        texts = tuple(text_of(values, column, data) for column in columns)
        return texts if len(texts) > 1 else texts[0]

    try:
        rows, rejects = read_as(settings.unlabelled, parse, encoding=data.encoding)
    except StorageError as error:
        raise DataError(f"unlabelled, {settings.unlabelled}: {error}") from None
    if rejects:
        raise DataError(f"unlabelled: {len(rejects)} rows cannot be used, the first: {rejects[0]}")
    return rows
