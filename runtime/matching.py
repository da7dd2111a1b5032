"""The matching engine: pairs of texts in, scores out. Tokenise -> pack -> backend -> scores in the caller's order.

`score` is for work that lies there whole (evaluation, batch): deterministic, bit by bit. `submit` is for requests that
arrive: the scheduler packs them with whatever else is waiting. Both run the same tokeniser, padding and backend.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from runtime.contract import F32, EncodedPair, Limits, Load, MatchingBackend, Observer, Pair, PairResult
from runtime.errors import BackendFailed, SluiceError
from runtime.manifest import Manifest
from runtime.packing import pack
from runtime.scheduler import Job, Scheduler, compute_isolated
from runtime.text import PairEncoder


class Silent:
    """An observer that nobody listens to."""

    def observe(self, event: str, value: float, **labels: Any) -> None:
        """Ignore the event."""


class MatchingEngine:
    """Scores pairs with one artifact. Thread-safe. `threads`: cores to use, default all."""

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        backend: MatchingBackend,
        *,
        limits: Limits | None = None,
        threads: int | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.manifest = manifest
        self.limits = limits or Limits()
        self._encoder = PairEncoder(tokenizer, manifest.max_tokens)
        self._backend = backend
        self._threads = threads or len(os.sched_getaffinity(0))
        self._observer = observer or Silent()
        self._scheduler: Scheduler | None = None

    def encode(self, pairs: Sequence[Pair], *, truncate: bool = True) -> list[EncodedPair]:
        """Token ids, in order. Raises TooManyTokens if a pair does not fit and `truncate` is False, InvalidInput."""
        return self._encoder.encode(pairs, truncate=truncate)

    def score(
        self, pairs: Sequence[Pair], *, truncate: bool = True, progress: Callable[[int], None] | None = None
    ) -> list[PairResult | SluiceError]:
        """Score a whole list, blocking; `progress` is told how many more pairs are done, after each batch.

        The same list gives the same scores, bit by bit, on the same machine: batches depend on the lengths alone.
        """
        encoded = self.encode(pairs, truncate=truncate)
        batches = pack([len(item) for item in encoded], self.limits)
        results: list[PairResult | SluiceError] = [BackendFailed("not computed")] * len(pairs)

        def run(batch: list[int]) -> None:
            for index, result in zip(
                batch, compute_isolated(self._compute, [encoded[index] for index in batch]), strict=True
            ):
                results[index] = result
            if progress:
                progress(len(batch))

        with ThreadPoolExecutor(self._threads, thread_name_prefix="score") as pool:
            list(pool.map(run, batches))
        return results

    def submit(self, items: Sequence[EncodedPair], *, deadline: float | None = None) -> Job:
        """Queue encoded pairs as one request. `deadline` is on `time.monotonic()`. Raises Overloaded, NotReady."""
        return self._running().submit(items, deadline)

    def load(self) -> Load:
        """Work in flight."""
        return self._scheduler.load() if self._scheduler else Load(0, 0, 0, 0, 0.0)

    def warm_up(self) -> None:
        """Run real shapes through the queue, so that the first request pays for nothing and the rate is known."""
        for length in (8, 32, self.manifest.max_tokens):
            item = EncodedPair((self.manifest.pad_token_id,) * length, (0,) * length)
            self.submit([item] * self._threads).future.result()

    def close(self) -> None:
        """Finish what is queued and end the threads."""
        if self._scheduler:
            self._scheduler.close()

    def _running(self) -> Scheduler:
        # Made on first use: evaluation and batch never need its threads.
        if self._scheduler is None:
            self._scheduler = Scheduler(self._compute, self.limits, self._threads, self._observer)
        return self._scheduler

    def _compute(self, rows: Sequence[EncodedPair]) -> list[PairResult]:
        """Pad to the longest row, run the backend, turn logits into probabilities of the positive label."""
        longest = max(map(len, rows))
        input_ids = np.full((len(rows), longest), self.manifest.pad_token_id, np.int64)  # (B, T)
        mask = np.zeros_like(input_ids)
        type_ids = np.zeros_like(input_ids)
        for row, item in enumerate(rows):
            input_ids[row, : len(item)] = item.ids
            mask[row, : len(item)] = 1
            type_ids[row, : len(item)] = item.type_ids
        scores = positive_probability(self._backend.logits(input_ids, mask, type_ids), self.manifest.positive_label)
        if not np.isfinite(scores).all():
            raise FloatingPointError("the model gave a score that is not a number")
        return [
            PairResult(float(score), len(item), item.dropped_tokens) for score, item in zip(scores, rows, strict=True)
        ]


def positive_probability(logits: F32, positive: int | None) -> F32:
    """(B, C) -> (B,): sigmoid for one logit, else softmax at the positive label (default: the last)."""
    if logits.shape[1] == 1:
        return np.asarray(1 / (1 + np.exp(-logits[:, 0])), np.float32)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted[:, -1 if positive is None else positive] / shifted.sum(axis=1), np.float32)
