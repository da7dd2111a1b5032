"""The engine of encoders, which cross-encoders (runtime/matching.py) and bi-encoders (runtime/embedding.py) share:
prepare -> queue -> backend -> results in the caller's order.

`score` is for pairs that lie there whole (evaluation, batch): deterministic, bit by bit. `submit` is for requests that
arrive: the scheduler packs them with whatever else is waiting. Both run the same tokeniser, padding and backend.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from tokenizers import Tokenizer

from runtime.contract import (
    F32,
    Encoded,
    EncoderBackend,
    Limits,
    Load,
    Observer,
    Pair,
    PairResult,
    Prepared,
    Result,
    Silent,
)
from runtime.errors import BackendFailed, NotReady, SluiceError
from runtime.manifest import Manifest
from runtime.packing import pack
from runtime.pending import Sink
from runtime.scheduler import Job, Scheduler, compute_isolated
from runtime.text import Name, Side, TextEncoder, pair_name

# (rows, tokens): small and middling batches tell the fixed part of a batch from its tokens' part.
WARM_UP_SHAPES = ((1, 8), (1, 32), (2, 16), (4, 16), (4, 32), (1, 16))


def large_warm_up_shapes(limits: Limits) -> list[tuple[int, int]]:
    """Further shapes for limits above the default ones: those of a GPU, where all small batches cost the same.

    Up to the limits, each of four times the tokens of the one before: a larger step could look like an outlier to the
    cost model.
    """
    shapes: list[tuple[int, int]] = []
    rows, length = 4, 32
    while limits.batch_tokens > Limits().batch_tokens and 4 * rows * length <= limits.batch_tokens:
        rows, length = (4 * rows, length) if 4 * rows <= limits.batch_items else (rows, 4 * length)
        shapes.append((rows, length))
    return shapes


class EncoderEngine(ABC):
    """Computes encoded items with one artifact. Thread-safe. `threads`: cores to use, default all."""

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        backend: EncoderBackend,
        *,
        limits: Limits | None = None,
        threads: int | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.manifest = manifest
        self.limits = limits or Limits()
        self.encoder = TextEncoder(tokenizer, manifest.max_tokens, manifest.pad_token_id)
        self._backend = backend
        self._threads = threads or len(os.sched_getaffinity(0))
        self._observer = observer or Silent()
        self._scheduler: Scheduler | None = None
        self._closed = False

    @abstractmethod
    def prepare(
        self,
        pairs: Sequence[Pair],
        *,
        truncate: bool = True,
        side: Side = "right",
        name: Name = pair_name,
    ) -> Prepared:
        """Tokenise pairs; see TextEncoder.encode for the arguments and for what it raises."""

    @abstractmethod
    def results(self, rows: F32, items: Sequence[Encoded]) -> Sequence[Result]:
        """The backend's output (B, N) as one result an item."""

    def score(
        self, pairs: Sequence[Pair], *, truncate: bool = True, progress: Callable[[int], None] | None = None
    ) -> list[PairResult | SluiceError]:
        """Score a whole list, blocking; `progress` is told how many more items are done, after each batch.

        The same list gives the same scores, bit by bit, on the same machine: batches depend on the lengths alone.
        """
        prepared = self.prepare(pairs, truncate=truncate)
        return prepared.join(self._whole(prepared.items, progress))

    def score_alone(self, pairs: Sequence[Pair]) -> list[PairResult | SluiceError]:
        """Score a few pairs as one batch on all of the engine's cores, on this thread: what a lone caller gets.

        Raises what the backend raises.
        """
        prepared = self.prepare(pairs)
        return prepared.join(list(self._compute(prepared.items, alone=True)))

    def submit(self, items: Sequence[Encoded], sink: Sink, *, deadline: float | None = None) -> Job:
        """Queue encoded items as one request; `deadline` is on `time.monotonic()`. See Scheduler.submit."""
        return self._running().submit(items, sink, deadline)

    def admit(self, items: int, *, deadline: float | None = None) -> None:
        """Ask, before tokenising, whether so many items would be refused whatever they hold. Raises as `submit`."""
        self._running().admit(items, 0, deadline)

    def would_refuse(self, items: int, *, deadline: float | None = None) -> bool:
        """Whether `admit` would raise Overloaded."""
        return self._running().would_refuse(items, 0, deadline)

    def load(self) -> Load:
        """Work in flight."""
        return self._scheduler.load() if self._scheduler else Load(0, 0, 0, 0, 0.0)

    def warm_up(self) -> None:
        """Run real shapes, so that the first request pays for nothing and the cost of a batch is known.

        Raises what the backend raises.
        """

        def batch(rows: int, length: int) -> list[Encoded]:
            length = min(length, self.manifest.max_tokens)
            return [Encoded((self.manifest.pad_token_id,) * length, (0,) * length)] * rows

        large = large_warm_up_shapes(self.limits)
        # The first call of a shape pays for memory that later ones reuse: not part of the cost.
        for shape in ((1, self.manifest.max_tokens), *large[-1:]):
            self._compute(batch(*shape))
        self._running().warm_up([batch(*shape) for shape in (*WARM_UP_SHAPES, *large)])

    def close(self) -> None:
        """Refuse new work, finish what is queued, end the threads."""
        self._closed = True
        if self._scheduler:
            self._scheduler.close()
            # It holds this engine: without the cycle, the weights go as soon as nobody uses them.
            self._scheduler = None

    def _whole(self, items: Sequence[Encoded], progress: Callable[[int], None] | None) -> list[Result | SluiceError]:
        results: list[Result | SluiceError] = [BackendFailed("not computed")] * len(items)

        def run(batch: list[int]) -> None:
            computed = compute_isolated(self._compute, [items[index] for index in batch])
            for index, result in zip(batch, computed, strict=True):
                results[index] = result
            if progress:
                progress(len(batch))

        with ThreadPoolExecutor(self._threads, thread_name_prefix="score") as pool:
            list(pool.map(run, pack([len(item) for item in items], self.limits)))
        return results

    def _running(self) -> Scheduler:
        # Made on first use: evaluation and batch never need its threads.
        if self._closed:
            raise NotReady("The engine is closed; load the model again.")
        if self._scheduler is None:
            self._scheduler = Scheduler(
                self._compute,
                self.limits,
                self._threads,
                self._observer,
                compute_alone=partial(self._compute, alone=True),
                clock=self._backend.clock,
            )
        return self._scheduler

    def _compute(self, items: Sequence[Encoded], *, alone: bool = False) -> Sequence[Result]:
        """Pad to the longest item and run the backend."""
        longest = max(map(len, items))
        input_ids = np.full((len(items), longest), self.manifest.pad_token_id, np.int64)  # (B, T)
        mask = np.zeros_like(input_ids)
        type_ids = np.zeros_like(input_ids)
        for row, item in enumerate(items):
            input_ids[row, : len(item)] = item.ids
            mask[row, : len(item)] = 1
            type_ids[row, : len(item)] = item.type_ids
        rows = self._backend.forward(input_ids, mask, type_ids, alone=alone)
        if not np.isfinite(rows).all():
            raise FloatingPointError("the model gave a number that is not finite")
        return self.results(rows, items)
