"""Cross-encoders: both texts of a pair in one sequence, its logits to the probability that they match."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from runtime.contract import F32, Encoded, Pair, PairResult, Prepared
from runtime.encoder import EncoderEngine
from runtime.errors import SluiceError
from runtime.text import Name, Side, pair_name


class MatchingEngine(EncoderEngine):
    """Scores pairs; an item is a pair."""

    def prepare(
        self,
        pairs: Sequence[Pair],
        *,
        truncate: bool = True,
        side: Side = "right",
        name: Name = pair_name,
    ) -> Prepared:
        """See EncoderEngine."""
        items = self.encoder.encode(pairs, truncate=truncate, side=side, name=name)
        return Prepared(items, lambda results: cast(list[PairResult | SluiceError], list(results)))

    def results(self, rows: F32, items: Sequence[Encoded]) -> list[PairResult]:
        """Logits (B, C) to scores."""
        scores = positive_probability(rows, self.manifest.positive_label)
        return [
            PairResult(score, len(item), item.dropped_tokens, logits)
            for score, item, logits in zip(scores.tolist(), items, rows, strict=True)
        ]


def class_probabilities(logits: F32) -> F32:
    """(C,) -> (C,): sigmoid for one logit, else softmax."""
    if len(logits) == 1:
        return np.asarray(1 / (1 + np.exp(-logits)), np.float32)
    shifted = np.exp(logits - logits.max())
    return np.asarray(shifted / shifted.sum(), np.float32)


def positive_probability(logits: F32, positive: int | None) -> F32:
    """(B, C) -> (B,): sigmoid for one logit, else softmax at the positive label (default: the last)."""
    if logits.shape[1] == 1:
        return np.asarray(1 / (1 + np.exp(-logits[:, 0])), np.float32)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted[:, -1 if positive is None else positive] / shifted.sum(axis=1), np.float32)
