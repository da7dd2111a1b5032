"""Log-probabilities of a model's own distribution: of given tokens, of the likeliest ones, and of a given text, which
is generated as any other but for its drawing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtime.contract import F32, Likeliest


def log_normalisers(logits: F32) -> F32:
    """(T, V) -> (T,): log of the sum of exponentials. A row at a time, so that memory holds one row more."""
    tops = logits.max(axis=1)
    sums = [np.exp(row - top).sum() for row, top in zip(logits, tops, strict=True)]
    return np.asarray(tops + np.log(sums), np.float32)


def score(logits: F32, tokens: Sequence[int], count: int) -> tuple[list[float], list[Likeliest]]:
    """Natural log-probability of each row's token, and of the row's `count` likeliest: (T, V), (T,) -> T each."""
    normalisers = log_normalisers(logits)
    values = logits[np.arange(len(tokens)), list(tokens)] - normalisers
    return values.tolist(), [likeliest(row, float(norm), count) for row, norm in zip(logits, normalisers, strict=True)]


def likeliest(logits: F32, normaliser: float, count: int) -> Likeliest:
    """The `count` likeliest tokens of a row (V,), likeliest first, of equals the smaller id."""
    count = min(count, len(logits))
    if not count:
        return ()
    # Those equal to the last one are all looked at, so that which is taken does not depend on how a partition falls.
    tokens = np.flatnonzero(logits >= np.partition(logits, -count)[-count])
    tokens = tokens[np.argsort(-logits[tokens], kind="stable")][:count]
    return tuple(zip(tokens.tolist(), (logits[tokens] - normaliser).tolist(), strict=True))


class Dictation:
    """A constraint that lets one text through, its tokens one after the other (`runtime.contract.Constraint`)."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = tokens
        self._place = 0

    @property
    def finished(self) -> bool:
        """Whether all has been said."""
        return self._place == len(self._tokens)

    def mask(self, logits: F32) -> None:
        """All but the next token of the text to -inf."""
        token = self._tokens[self._place]
        kept = logits[token]
        logits[:] = -np.inf
        logits[token] = kept

    def accept(self, token: int) -> None:
        """The next token of the text was said."""
        self._place += 1
