"""Bi-encoders: a text becomes a vector, a pair is as alike as its two vectors point the same way (Reimers and Gurevych,
arXiv:1908.10084). A text that occurs in several pairs of a request is computed once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np

from runtime.contract import F32, Embedding, Encoded, Pair, PairResult, Prepared, Result
from runtime.encoder import EncoderEngine
from runtime.errors import SluiceError
from runtime.text import Ids, Name, Side, pair_name


def text_name(index: int, part: str) -> str:
    """The names of texts that nobody calls otherwise."""
    return f"inputs[{index}]"


class EmbeddingEngine(EncoderEngine):
    """Embeds texts and scores pairs of them; an item is a text."""

    def prepare(
        self,
        pairs: Sequence[Pair],
        *,
        truncate: bool = True,
        side: Side = "right",
        name: Name = pair_name,
    ) -> Prepared:
        """See EncoderEngine."""
        places: dict[str, int] = {}
        names: list[str] = []
        for index, pair in enumerate(pairs):
            for part, text in (("a", pair.text_a), ("b", pair.text_b)):
                if places.setdefault(text, len(places)) == len(names):
                    names.append(name(index, part))
        items = self.encoder.encode(list(places), truncate=truncate, side=side, name=lambda index, _: names[index])
        sides = [(places[pair.text_a], places[pair.text_b]) for pair in pairs]
        return Prepared(items, lambda results: [_alike(results[a], results[b]) for a, b in sides])

    def encode(
        self,
        texts: Sequence[str] | Sequence[Ids],
        *,
        truncate: bool = True,
        side: Side = "right",
        name: Name = text_name,
    ) -> list[Encoded]:
        """Texts, or their token ids, ready for `submit`, one item each; see TextEncoder.encode and .frame."""
        if texts and isinstance(texts[0], str):
            return self.encoder.encode(cast(Sequence[str], texts), truncate=truncate, side=side, name=name)
        return [
            self.encoder.frame(ids, truncate=truncate, side=side, name=name(index, ""))
            for index, ids in enumerate(cast(Sequence[Ids], texts))
        ]

    def embed(self, texts: Sequence[str]) -> list[Embedding | SluiceError]:
        """Embed a whole list, blocking and deterministic, as `score` does."""
        return cast(list[Embedding | SluiceError], self._whole(self.encode(texts), None))

    def results(self, rows: F32 | list[F32], items: Sequence[Encoded]) -> list[Embedding]:
        """Pooled vectors (B, D) to embeddings."""
        if self.limits.cache_items:
            rows = [row.copy() for row in rows]  # a view that is kept keeps its whole batch
        return [Embedding(row, len(item), item.dropped_tokens) for row, item in zip(rows, items, strict=True)]


def normalised(vectors: F32) -> F32:
    """(N, D) -> (N, D) of length 1; a vector of zeros stays."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(norms == 0, 1, norms), np.float32)


def cosine(a: F32, b: F32) -> float:
    """Of two vectors (D,), in [-1, 1]; 0 where one is all zeros."""
    norms = math.sqrt(float(a @ a) * float(b @ b))
    return min(1.0, max(-1.0, float(a @ b) / norms)) if norms else 0.0


def _alike(a: Result | SluiceError, b: Result | SluiceError) -> PairResult | SluiceError:
    for each in (a, b):
        if isinstance(each, SluiceError):
            return each
    assert isinstance(a, Embedding)
    assert isinstance(b, Embedding)
    score = (1 + cosine(a.vector, b.vector)) / 2
    return PairResult(score, a.tokens + b.tokens, a.dropped_tokens + b.dropped_tokens)
