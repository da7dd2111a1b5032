"""What is added to, or taken from, logits before a token is drawn: bias and penalties of one sequence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtime.contract import F32, Sampling


class Penalties:
    """Repetition penalty (CTRL, Keskar et al. 2019) over prompt and text; presence and frequency penalties over the
    text, as OpenAI has them; logit bias. Applied in the order bias, repetition, presence and frequency."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int], vocab_size: int) -> None:
        self._sampling = sampling
        self._biased = np.asarray([token for token, _ in sampling.logit_bias], np.int64)
        self._bias = np.asarray([value for _, value in sampling.logit_bias], np.float32)
        self._seen = np.zeros(vocab_size, np.bool_)  # in prompt or text
        self._seen[list(prompt)] = True
        self._said: set[int] = set()  # in the text
        self._owed = np.zeros(vocab_size, np.float32)  # presence and frequency penalties of the text so far

    @staticmethod
    def wanted(sampling: Sampling) -> bool:
        """Whether these settings change any logit."""
        return bool(
            sampling.logit_bias
            or sampling.repetition_penalty != 1
            or sampling.presence_penalty
            or sampling.frequency_penalty
        )

    def apply(self, logits: F32) -> None:
        """Change `logits` (V,) in place."""
        np.add.at(logits, self._biased, self._bias)
        if (factor := self._sampling.repetition_penalty) != 1:
            seen = logits[self._seen]
            logits[self._seen] = np.where(seen > 0, seen / factor, seen * factor)
        logits -= self._owed

    def accept(self, token: int) -> None:
        """The text goes on with `token`."""
        self._seen[token] = True
        self._owed[token] += self._sampling.frequency_penalty
        if token not in self._said:
            self._said.add(token)
            self._owed[token] += self._sampling.presence_penalty
