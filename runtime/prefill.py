"""A prompt on its way into the cache, in chunks that leave running sequences their pace."""

from __future__ import annotations

import math

from runtime.contract import F32, Likeliest, PromptScores
from runtime.cost import CostModel
from runtime.likelihood import score
from runtime.slots import LEAST_CALL
from runtime.ticket import Ticket

# Steps of the running sequences that the prefill between two of them may take. A sequence that runs then waits for
# three of its steps at most, with room for what the cost model does not know: attention over what is there already.
STALL_STEPS = 1.5
# A smaller chunk costs hardly less: all weights are read for it.
LEAST_CHUNK = 16
# A larger one hardly gains: it would only let a cancelled prompt go on for longer, and hold more rows of logits.
MOST_CHUNK = 128


def chunk_tokens(left: int, cost: CostModel, allowed_s: float) -> int:
    """How many of the `left` tokens of a prompt to compute now, in `allowed_s` seconds if that is possible at all.

    Chunks of a prompt are of like sizes, so that the last one is not a sliver that costs as much as the others.
    """
    fits = (allowed_s - cost.fixed_s) / cost.token_s if cost.token_s else LEAST_CHUNK
    size = int(min(max(fits, LEAST_CHUNK), MOST_CHUNK))
    size = math.ceil(left / math.ceil(left / size))
    return size if left - size != LEAST_CALL - 1 else size + 1


class Prefill:
    """How far one prompt is: `done` tokens of it lie in `slot`."""

    def __init__(self, ticket: Ticket, slot: int, cached: int) -> None:
        self.ticket = ticket
        self.slot = slot
        self.done = cached
        self._logprobs: list[float | None] = [None]
        self._likeliest: list[Likeliest] = [()]

    @property
    def left(self) -> int:
        """Tokens of the prompt that are still to compute."""
        return len(self.ticket.prompt) - self.done

    @property
    def scored(self) -> bool:
        """Whether log-probabilities of the prompt are asked for: logits of all its tokens are needed."""
        return self.ticket.sampling.prompt_logprobs is not None

    def advance(self, logits: F32, size: int) -> None:
        """`size` more tokens are in the cache; their `logits` (size, V) score those after each, where that is asked."""
        if self.ticket.sampling.prompt_logprobs is not None:
            targets = self.ticket.prompt[self.done + 1 : self.done + 1 + size]
            if targets:
                values, best = score(logits[: len(targets)], targets, self.ticket.sampling.prompt_logprobs)
                self._logprobs += values
                self._likeliest += best
        self.done += size

    def scores(self) -> PromptScores:
        """Of the whole prompt, once it is in the cache."""
        return PromptScores(tuple(self._logprobs), tuple(self._likeliest))
