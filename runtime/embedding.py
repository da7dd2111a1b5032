"""Bi-encoders: a text becomes a vector, a pair is as alike as its two vectors point the same way (Reimers and Gurevych,
arXiv:1908.10084). A text that occurs in several pairs of a request is computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from runtime.contract import F32, Embedding, Encoded, Pair, PairResult, Prepared, Result
from runtime.encoder import EncoderEngine
from runtime.errors import SluiceError
from runtime.text import Side


class EmbeddingEngine(EncoderEngine):
    """Embeds texts and scores pairs of them; an item is a text."""

    def prepare(
        self,
        pairs: Sequence[Pair],
        *,
        truncate: bool = True,
        side: Side = "right",
        name: Callable[[int], str] = "pairs[{}]".format,
    ) -> Prepared:
        """See EncoderEngine."""
        places: dict[str, int] = {}
        names: list[str] = []
        for index, pair in enumerate(pairs):
            for part, text in (("text_a", pair.text_a), ("text_b", pair.text_b)):
                if places.setdefault(text, len(places)) == len(names):
                    names.append(f"{name(index)}.{part}")
        items = self._encoder.encode(list(places), truncate=truncate, side=side, name=names.__getitem__)
        sides = [(places[pair.text_a], places[pair.text_b]) for pair in pairs]
        return Prepared(items, lambda results: [_alike(results[a], results[b]) for a, b in sides])

    def encode(
        self,
        texts: Sequence[str],
        *,
        truncate: bool = True,
        side: Side = "right",
        name: Callable[[int], str] = "inputs[{}]".format,
    ) -> list[Encoded]:
        """Texts ready for `submit`, one item each; see TextEncoder.encode."""
        return self._encoder.encode(texts, truncate=truncate, side=side, name=name)

    def embed(self, texts: Sequence[str]) -> list[Embedding | SluiceError]:
        """Embed a whole list, blocking and deterministic, as `score` does."""
        return cast(list[Embedding | SluiceError], self._whole(self.encode(texts), None))

    def results(self, rows: F32, items: Sequence[Encoded]) -> list[Embedding]:
        """Pooled vectors (B, D) to embeddings."""
        return [Embedding(row, len(item), item.dropped_tokens) for row, item in zip(rows, items, strict=True)]


def cosine(a: F32, b: F32) -> float:
    """Of two vectors (D,), in [-1, 1]; 0 where one is all zeros."""
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return min(1.0, max(-1.0, float(a @ b) / norms)) if norms else 0.0


def _alike(a: Result | SluiceError, b: Result | SluiceError) -> PairResult | SluiceError:
    for each in (a, b):
        if isinstance(each, SluiceError):
            return each
    assert isinstance(a, Embedding)
    assert isinstance(b, Embedding)
    score = (1 + cosine(a.vector, b.vector)) / 2
    return PairResult(score, a.tokens + b.tokens, a.dropped_tokens + b.dropped_tokens)
