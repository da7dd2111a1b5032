"""ONNX Runtime for encoder-decoders: an encoder's graph, and a decoder's over two slot caches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from runtime.backends.onnx import CPU, open_session
from runtime.contract import F32, I64
from runtime.manifest import CausalShape


class OnnxSeq2Seq:
    """A slot holds what the decoder attends to: keys and values of its source, which the encoder gave, and of the text.

    Encoder: input_ids, position_ids (1, S) -> source.L.key|value (1, H, S, D). Decoder: input_ids, position_ids (B, 1),
    seqlens_k (B,) = position of this token, total_sequence_length () = the largest + 1, source_seqlens_k (B,) = tokens
    of the source - 1, source_total_length () = its largest + 1, source.L.key|value, which are only read, and
    past_key_values.L.key|value (B, H, context, D) -> logits (B, 1, V) and present.L.key|value, in the same memory as
    the past.

    As in `OnnxGeneration`, where kernels compute rows in pairs (`row_multiple` 2) the last of an odd number of rows has
    a companion: the cache row before slot 0, or, where a text begins, itself once more.
    """

    def __init__(
        self, encoder: Path, decoder: Path, shape: CausalShape, *, slots: int, context: int, threads: int
    ) -> None:
        self.slots, self.context, self.vocab_size, self.whole_prompts = slots, context, shape.vocab_size, True
        self._start = shape.start_token_ids
        self._encoder = open_session(encoder, threads, spin=True)
        self._decoder = open_session(decoder, threads, spin=True)
        self._multiple = int(self._decoder.get_modelmeta().custom_metadata_map.get("row_multiple", 1))
        self._spare = self._multiple - 1  # cache rows before slot 0
        self._names = [f"{layer}.{part}" for layer in range(shape.layers) for part in ("key", "value")]
        size = (len(self._names), self._spare + slots, shape.kv_heads, context, shape.head_dim)
        self._text, self._source = np.zeros(size, np.float32), np.zeros(size, np.float32)
        self._source_lengths = np.ones(self._spare + slots, np.int64)  # by cache row
        self._bindings: dict[tuple[int, int], ort.IOBinding] = {}

    def prefill(self, slot: int, ids: Sequence[int], start: int = 0, all_logits: bool = False) -> F32:
        """Read the source `ids` into `slot` and begin its text -> (1, V)."""
        row, count = self._spare + slot, len(ids)
        feeds = {"input_ids": np.asarray([ids], np.int64), "position_ids": np.arange(count, dtype=np.int64)[None]}
        source = np.stack(self._encoder.run([f"source.{name}" for name in self._names], feeds))  # (2 L, 1, H, S, D)
        self._source[:, row, :, :count] = source[:, 0]
        self._source_lengths[row] = count
        # The text's first places, in a cache of their own: no other row of it is anybody's.
        rows, steps = self._multiple, len(self._start)
        sources = np.repeat(source, rows, axis=1)
        text = np.zeros((len(self._names), rows, *self._text.shape[2:3], steps, self._text.shape[4]), np.float32)
        binding = self._bound(text, sources)
        for position, token in enumerate(self._start):
            logits = self._run(binding, np.full(rows, token), np.full(rows, position), np.full(rows, count))
        self._text[:, row, :, :steps] = text[:, -1]
        return logits[-1:]

    def decode(self, tokens: I64, lengths: I64) -> F32:
        """Append one token to each of slots 0..n-1, of whose source and text there are `lengths`: (n,), (n,) ->
        (n, V)."""
        extra = -len(tokens) % self._multiple
        row, rows = self._spare - extra, extra + len(tokens)
        sources = self._source_lengths[row : row + rows]
        positions = np.zeros(rows, np.int64)
        positions[extra:] = lengths - sources[extra:] + len(self._start)
        if (row, rows) not in self._bindings:
            view = slice(row, row + rows)
            self._bindings[row, rows] = self._bound(self._text[:, view], self._source[:, view])
        padded = np.concatenate([np.zeros(extra, np.int64), tokens])
        return self._run(self._bindings[row, rows], padded, positions, sources)[extra:]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the source of slot `source`, and its text, both together of `length` tokens, over slot `target`."""
        one, other = self._spare + source, self._spare + target
        read = self._source_lengths[one]
        written = length - read + len(self._start)
        self._source[:, other, :, :read] = self._source[:, one, :, :read]
        self._text[:, other, :, :written] = self._text[:, one, :, :written]
        self._source_lengths[other] = read

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchange two slots, of which neither has more than `length` tokens of source and text together."""
        rows = np.asarray([one, other]) + self._spare
        read = self._source_lengths[rows]
        written = min(max(length - int(read.min()), 0) + len(self._start), self.context)
        for cache, most in ((self._source, int(read.max())), (self._text, written)):
            kept = cache[:, rows[0], :, :most].copy()
            cache[:, rows[0], :, :most] = cache[:, rows[1], :, :most]
            cache[:, rows[1], :, :most] = kept
        self._source_lengths[rows] = read[::-1]

    def _bound(self, text: F32, source: F32) -> ort.IOBinding:
        """A binding to caches (2 L, B, H, T, D), of which the rows lie one after the other; they must outlive it."""
        binding = self._decoder.io_binding()
        for name, written, read in zip(self._names, text, source, strict=True):
            for end, cache in (("past_key_values", written), ("source", read)):
                binding.bind_input(f"{end}.{name}", CPU, 0, np.float32, cache.shape, cache.ctypes.data)
            binding.bind_output(f"present.{name}", CPU, 0, np.float32, written.shape, written.ctypes.data)
        return binding

    def _run(self, binding: ort.IOBinding, tokens: I64, positions: I64, sources: I64) -> F32:
        """One token a row, at its position of the text, beside its source of so many tokens: (B,) each -> (B, V)."""
        feeds = {
            "input_ids": tokens.astype(np.int64)[:, None],
            "position_ids": positions.astype(np.int64)[:, None],
            "seqlens_k": positions.astype(np.int32),
            "total_sequence_length": np.asarray(positions.max() + 1, np.int32),
            "source_seqlens_k": (sources - 1).astype(np.int32),
            "source_total_length": np.asarray(sources.max(), np.int32),
        }
        for name, value in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(value))
        logits = np.empty((len(tokens), 1, self.vocab_size), np.float32)
        binding.bind_output("logits", CPU, 0, np.float32, logits.shape, logits.ctypes.data)
        self._decoder.run_with_iobinding(binding)
        return logits[:, 0]
