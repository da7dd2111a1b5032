"""The raw in-process limit: tokenised pairs, sorted by length, batches of 32, all cores. No queue, no HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime

from runtime.contract import F32, I64, Encoded, EncoderBackend, Pair
from runtime.manifest import Manifest, read_manifest
from runtime.text import TextEncoder, load_tokenizer

BATCH = 32


class WholeSession:
    """One session on all cores, with ONNX Runtime's own defaults: its threads spin, which a server could not afford."""

    clock = staticmethod(time.monotonic)

    def __init__(self, graph: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self._inputs = {node.name for node in self._session.get_inputs()}

    def forward(self, input_ids: I64, attention_mask: I64, token_type_ids: I64, *, alone: bool = False) -> F32:
        """(B, T) each -> (B, N)."""
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        logits: F32 = self._session.run(None, {name: feeds[name] for name in self._inputs})[0]
        return logits


class Raw:
    """One artifact behind its backend alone. `parallel`: batches computed at once."""

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

    def _pad(self, items: Sequence[Encoded]) -> tuple[I64, I64, I64]:
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
