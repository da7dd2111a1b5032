"""The raw in-process limit: tokenised pairs, sorted by length, batches of 32, all cores. No queue, no HTTP."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from runtime.contract import Encoded, EncoderBackend, Pair
from runtime.manifest import Manifest, read_manifest
from runtime.text import TextEncoder, load_tokenizer

BATCH = 32


class Raw:
    """One artifact behind its backend alone. `parallel`: batches computed at once, each on one thread."""

    def __init__(self, directory: Path, backend: EncoderBackend, pairs: Sequence[Pair], parallel: int) -> None:
        self.manifest: Manifest = read_manifest(directory)
        encoder = TextEncoder(load_tokenizer(directory / self.manifest.tokenizer), self.manifest.max_tokens)
        encoded = sorted(encoder.encode(pairs), key=len)
        self._backend = backend
        self._parallel = parallel
        self._batches = [self._pad(encoded[start : start + BATCH]) for start in range(0, len(encoded), BATCH)]
        self._singles = [self._pad([item]) for item in encoded]
        self._pairs = len(encoded)

    def pairs_per_s(self) -> float:
        """All pairs once, in sorted batches."""

        def run() -> None:
            with ThreadPoolExecutor(self._parallel) as pool:
                list(pool.map(lambda batch: self._backend.forward(*batch), self._batches))

        return self._pairs / _seconds(run)

    def p50_ms(self, count: int = 100) -> float:
        """Median latency of one pair alone, over pairs of all lengths."""
        spread = self._singles[:: max(1, len(self._singles) // count)]
        times = [_seconds(lambda single=single: self._backend.forward(*single)) for single in spread]  # type: ignore[misc]
        return float(np.median(times) * 1000)

    def _pad(self, items: Sequence[Encoded]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        longest = max(map(len, items))
        ids = np.full((len(items), longest), self.manifest.pad_token_id, np.int64)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for row, item in enumerate(items):
            ids[row, : len(item)] = item.ids
            mask[row, : len(item)] = 1
            types[row, : len(item)] = item.type_ids
        return ids, mask, types


def _seconds(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
