"""Logits to a token: temperature, top-k, nucleus (top-p, Holtzman et al. 2020). One row, one generator."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from runtime.contract import Sampling
from runtime.errors import InvalidInput

MAX_STOPS = 4  # OpenAI's limit


def check(sampling: Sampling) -> None:
    """Raises InvalidInput naming the first setting that is out of range."""
    rules = (
        ("max_tokens", sampling.max_tokens >= 1, "at least 1"),
        ("temperature", 0 <= sampling.temperature <= 2, "between 0 and 2"),
        ("top_k", sampling.top_k >= 0, "0 (off) or more"),
        ("top_p", 0 < sampling.top_p <= 1, "above 0 and at most 1"),
        ("seed", sampling.seed is None or 0 <= sampling.seed < 2**63, "a whole number from 0 to 2^63 - 1"),
        ("stop", len(sampling.stop) <= MAX_STOPS and all(sampling.stop), f"at most {MAX_STOPS} non-empty texts"),
    )
    for name, holds, rule in rules:
        if not holds:
            raise InvalidInput(f"{name} is {getattr(sampling, name)!r}; it must be {rule}.", param=name)


def draw(logits: npt.NDArray[np.float32], sampling: Sampling, random: np.random.Generator) -> int:
    """One token id from `logits` (V,). Filters apply in the order temperature, top-k, top-p."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    scaled = logits.astype(np.float64) / sampling.temperature
    if 0 < sampling.top_k < len(scaled):
        kept = np.argpartition(scaled, -sampling.top_k)[-sampling.top_k :]
    else:
        kept = np.arange(len(scaled))
    order = kept[np.argsort(-scaled[kept], kind="stable")]
    weights = np.exp(scaled[order] - scaled[order[0]])
    cumulative = np.cumsum(weights)
    if sampling.top_p < 1:
        # The smallest set whose mass reaches top_p; the first token always stays.
        count = int(np.searchsorted(cumulative, sampling.top_p * cumulative[-1])) + 1
        order, cumulative = order[:count], cumulative[:count]
    place = int(np.searchsorted(cumulative, random.random() * cumulative[-1], side="right"))
    return int(order[min(place, len(order) - 1)])
