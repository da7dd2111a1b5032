"""Logits to tokens, for one sequence: settings checked, filters applied, one token drawn. Knows no slots, no text.

Filters work on the weights of the whole vocabulary and set to zero what they take out, so none needs a full sort of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runtime.contract import F32, Constraint, Likeliest, Sampling
from runtime.errors import InvalidInput
from runtime.likelihood import score
from runtime.penalties import Penalties

MAX_STOPS = 4  # OpenAI's limit, as are the next three
MAX_LIKELIEST = 20
MAX_BIASED = 1024
MAX_BIAS = 100
# Running sums are looked up by the sums of such blocks first: one over the whole vocabulary costs far more.
BLOCK = 256


def check(sampling: Sampling, vocab_size: int) -> None:
    """Raises InvalidInput naming the first setting that is out of range, its value and the range."""
    s = sampling
    counted = f"a whole number from 0 to {MAX_LIKELIEST}"
    rules = (
        ("max_tokens", s.max_tokens >= (s.prompt_logprobs is None), "at least 1, or 0 to score the prompt only"),
        ("min_tokens", 0 <= s.min_tokens <= s.max_tokens, f"from 0 to max_tokens, which is {s.max_tokens}"),
        ("temperature", 0 <= s.temperature <= 2, "between 0 and 2"),
        ("top_k", s.top_k >= 0, "0 (off) or more"),
        ("top_p", 0 < s.top_p <= 1, "above 0 and at most 1"),
        ("min_p", 0 <= s.min_p <= 1, "between 0 (off) and 1"),
        ("repetition_penalty", 0 < s.repetition_penalty <= 10, "above 0 and at most 10; 1 is off"),
        ("presence_penalty", -2 <= s.presence_penalty <= 2, "between -2 and 2"),
        ("frequency_penalty", -2 <= s.frequency_penalty <= 2, "between -2 and 2"),
        ("seed", s.seed is None or 0 <= s.seed < 2**63, "a whole number from 0 to 2^63 - 1"),
        ("stop", len(s.stop) <= MAX_STOPS and all(s.stop), f"at most {MAX_STOPS} non-empty texts"),
        ("logprobs", s.logprobs is None or 0 <= s.logprobs <= MAX_LIKELIEST, counted),
        ("prompt_logprobs", s.prompt_logprobs is None or 0 <= s.prompt_logprobs <= MAX_LIKELIEST, counted),
    )
    for name, holds, rule in rules:
        if not holds:
            raise InvalidInput(f"{name} is {getattr(s, name)!r}; it must be {rule}.", param=name)
    _check_bias(s.logit_bias, vocab_size)
    against = [name for name in ("min_tokens", "ignore_eos", "stop") if getattr(s, name)]
    if s.schema is not None and against:
        name = against[0]
        raise InvalidInput(
            f"{name} is {getattr(s, name)!r}; with a schema, which says where the text ends, leave it out.", param=name
        )


def _check_bias(bias: Sequence[tuple[int, float]], vocab_size: int) -> None:
    if len(bias) > MAX_BIASED:
        raise InvalidInput(f"logit_bias names {len(bias)} tokens; at most {MAX_BIASED} may be.", param="logit_bias")
    for token, value in bias:
        if not 0 <= token < vocab_size:
            raise InvalidInput(
                f"logit_bias names token {token}, which is outside the vocabulary of {vocab_size}.", param="logit_bias"
            )
        if not -MAX_BIAS <= value <= MAX_BIAS:
            raise InvalidInput(
                f"logit_bias of token {token} is {value!r}; it must be between -{MAX_BIAS} and {MAX_BIAS}.",
                param="logit_bias",
            )


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token, and what the model itself thought of it where that was asked for."""

    token: int
    logprob: float | None = None
    likeliest: Likeliest = ()


class Sampler:
    """Draws one sequence's tokens. Its randomness is its own, so a seeded sample is the same alone and in company."""

    def __init__(
        self,
        sampling: Sampling,
        prompt: Sequence[int],
        vocab_size: int,
        eos: Sequence[int],
        *,
        index: int = 0,
        constraint: Constraint | None = None,
    ) -> None:
        self._sampling = sampling
        self._eos = list(eos)
        self._constraint = constraint
        self._penalties = Penalties(sampling, prompt, vocab_size) if Penalties.wanted(sampling) else None
        self._random = np.random.default_rng(None if sampling.seed is None else sampling.seed + index)
        self.count = 0  # tokens of the text so far

    @property
    def finished(self) -> bool:
        """Nothing may follow: the constraint is met."""
        return self._constraint is not None and self._constraint.finished

    def draw(self, logits: F32) -> Drawn:
        """The next token from `logits` (V,), which stay as they are. Raises ValueError where none is possible."""
        row = self._edited(logits)
        token = int(row.argmax())
        if not np.isfinite(row[token]):
            raise ValueError(f"the largest of the logits is {row[token]}")
        if self._sampling.temperature > 0:
            token = _reached(self._weights(row, row[token]), self._random.random())
        if self._sampling.logprobs is None:
            return Drawn(token)
        (logprob,), (best,) = score(logits[None], [token], self._sampling.logprobs)
        return Drawn(token, logprob, best)

    def accept(self, token: int) -> None:
        """The text goes on with `token`, which is no end token."""
        self.count += 1
        if self._penalties:
            self._penalties.accept(token)
        if self._constraint:
            self._constraint.accept(token)

    def _edited(self, logits: F32) -> F32:
        """Logits after constraint, min_tokens, bias and penalties: a copy where there are any."""
        early = self.count < self._sampling.min_tokens and bool(self._eos)
        if not (early or self._penalties or self._constraint):
            return logits
        row = logits.copy()
        if self._constraint:
            self._constraint.mask(row)
        if early:
            row[self._eos] = -np.inf
        if self._penalties:
            self._penalties.apply(row)
        return row

    def _weights(self, row: F32, top: np.float32) -> F32:
        """The filtered softmax of `row`, not normalised: the weight of `top`, its largest, is 1."""
        s = self._sampling
        weights: F32 = np.exp((row - top) * np.float32(1 / s.temperature))
        if 0 < s.top_k < len(weights):
            weights *= weights >= np.partition(weights, -s.top_k)[-s.top_k]
        if s.top_p < 1:
            weights *= weights >= _nucleus(weights, s.top_p)
        if s.min_p > 0:
            weights *= weights >= s.min_p
        return weights


def _nucleus(weights: F32, top_p: float) -> np.float32:
    """The least weight among the fewest tokens whose mass reaches `top_p` (Holtzman et al. 2020)."""
    ordered: F32 = np.sort(weights)
    # What is 1 - top_p on paper, a rounding error more or less, is left out.
    least: np.float32 = ordered[_reached(ordered, (1 - top_p) * (1 + 1e-6))]
    return least


def _reached(shares: F32, part: float) -> int:
    """Where the running sum of `shares` passes `part` of their total."""
    blocks = np.add.reduceat(shares, np.arange(0, len(shares), BLOCK)).astype(np.float64)
    sums = blocks.cumsum()
    place = part * sums[-1]
    block = _landed(sums, place)
    inner = shares[block * BLOCK : (block + 1) * BLOCK].astype(np.float64).cumsum()
    return block * BLOCK + _landed(inner, place - (sums[block] - blocks[block]))


def _landed(sums: npt.NDArray[np.float64], place: float) -> int:
    """Which of the shares that `sums` runs over holds `place`. Never one of nothing: past the end, by a rounding error,
    is the last share that is not."""
    return int(min(np.searchsorted(sums, place, side="right"), np.searchsorted(sums, sums[-1])))
