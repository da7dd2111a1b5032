"""Inputs on which int8 looks for the extremes of activations: rows of train, as they are served."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx

from runtime.contract import I64, Encoded, Pair
from runtime.encoder import EncoderEngine
from runtime.errors import InvalidInput
from runtime.load import load_engine
from training.compression.step import GRAPH, Context
from training.data.splits import PairSplits

Feeds = dict[str, I64]


def calibration_inputs(source: Path, context: Context, rows: int) -> list[Feeds]:
    """What the graph of the encoder `source` is fed for `rows` rows of train, drawn by the seed: arrays (1, T) for each
    pair, or for each text of a bi-encoder. Raises InvalidInput without data."""
    if not isinstance(context.splits, PairSplits):
        raise InvalidInput("A static form is calibrated on rows of train: compress a recipe with data, not a folder.")
    train = context.splits.train
    drawn = random.Random(context.seed).sample(train, min(rows, len(train)))
    engine = load_engine(source)
    assert isinstance(engine, EncoderEngine)
    items = engine.prepare([Pair(row.text_a, row.text_b) for row in drawn]).items
    engine.close()
    names = {each.name for each in onnx.load(source / GRAPH, load_external_data=False).graph.input}
    return list(_feeds(items, names))


def _feeds(items: Sequence[Encoded], names: set[str]) -> Iterator[Feeds]:
    for item in items:
        ids = np.asarray([item.ids], np.int64)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        feeds["token_type_ids"] = np.asarray([item.type_ids], np.int64)
        yield {name: value for name, value in feeds.items() if name in names}
