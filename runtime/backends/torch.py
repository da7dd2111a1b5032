"""PyTorch: the reference that every faster backend is compared with, and what evaluates a checkpoint. Never served.

Nothing else in the engine imports torch or transformers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from models.registry import builder, register_networks
from runtime.contract import F32, I64
from runtime.manifest import CausalShape


class _TorchEncoder:
    clock = staticmethod(time.monotonic)

    def __init__(self, model: nn.Module) -> None:
        self._model = model.eval()
        self._segments = getattr(self._model.config, "type_vocab_size", 0) > 1

    def forward(self, input_ids: I64, attention_mask: I64, token_type_ids: I64, *, alone: bool = False) -> F32:
        """(B, T) each -> (B, N)."""
        inputs = {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(attention_mask)}
        if self._segments:
            inputs["token_type_ids"] = torch.from_numpy(token_type_ids)
        with torch.inference_mode():
            output = self._model(**inputs)
        return np.asarray(getattr(output, "logits", output).numpy(), np.float32)


class TorchMatching(_TorchEncoder):
    """A sequence-classification folder as transformers saves it; N is the number of classes."""

    def __init__(self, directory: Path) -> None:
        register_networks()
        super().__init__(AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32))


class TorchEmbedding(_TorchEncoder):
    """A bi-encoder's folder as sentence-transformers saves it; N is the number of dimensions."""

    def __init__(self, directory: Path) -> None:
        super().__init__(builder("embedding", "bi-encoder")(directory))


class TorchGeneration:
    """A causal language model folder. Keeps token ids, not keys and values, and recomputes: slow, and beyond doubt."""

    def __init__(self, directory: Path, *, slots: int, context: int) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        self.slots, self.context, self.whole_prompts = slots, context, False
        self.vocab_size = int(self._model.config.vocab_size)
        self._rows: list[list[int]] = [[] for _ in range(slots)]

    def prefill(self, slot: int, ids: Sequence[int], start: int = 0, all_logits: bool = False) -> F32:
        """Append `ids` to `slot`, which holds `start` tokens -> (1, V), or (T, V) with `all_logits`."""
        self._rows[slot] = [*self._rows[slot][:start], *ids]
        with torch.inference_mode():
            logits = self._model(torch.tensor([self._rows[slot]])).logits[0]  # (start + T, V)
        return np.asarray((logits[start:] if all_logits else logits[-1:]).numpy(), np.float32)

    def decode(self, tokens: I64, lengths: I64) -> F32:
        """Append one token to each of slots 0..n-1, which hold `lengths` tokens: (n,), (n,) -> (n, V)."""
        pairs = zip(tokens, lengths, strict=True)
        return np.concatenate([self.prefill(slot, [int(token)], int(n)) for slot, (token, n) in enumerate(pairs)])

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of slot `source` over slot `target`."""
        self._rows[target] = self._rows[source][:length]

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchange the first `length` tokens of two slots; what lies after them is lost in both."""
        self._rows[one], self._rows[other] = self._rows[other][:length], self._rows[one][:length]


class TorchSeq2Seq:
    """An encoder-decoder's folder. Keeps the token ids of source and text, and recomputes both."""

    def __init__(self, directory: Path, shape: CausalShape, *, slots: int, context: int) -> None:
        self._model = AutoModelForSeq2SeqLM.from_pretrained(directory, dtype=torch.float32).eval()
        self.slots, self.context, self.vocab_size, self.whole_prompts = slots, context, shape.vocab_size, True
        self._start = list(shape.start_token_ids)
        self._rows: list[tuple[list[int], list[int]]] = [([], [])] * slots

    def prefill(self, slot: int, ids: Sequence[int], start: int = 0, all_logits: bool = False) -> F32:
        """Read the source `ids` into `slot` -> (1, V)."""
        self._rows[slot] = (list(ids), self._start)
        return self._last_logits([self._rows[slot]])

    def decode(self, tokens: I64, lengths: I64) -> F32:
        """Append one token to each of slots 0..n-1, of whose source and text there are `lengths` -> (n, V)."""
        for slot, (token, length) in enumerate(zip(tokens, lengths, strict=True)):
            source, text = self._rows[slot]
            self._rows[slot] = (source, [*text[: length - len(source) + len(self._start)], int(token)])
        return self._last_logits(self._rows[: len(tokens)])

    def move(self, source: int, target: int, length: int) -> None:
        """Copy slot `source` over slot `target`."""
        self._rows[target] = self._rows[source]

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchange two slots."""
        self._rows[one], self._rows[other] = self._rows[other], self._rows[one]

    def _last_logits(self, rows: Sequence[tuple[list[int], list[int]]]) -> F32:
        sources, texts = ([torch.tensor(row[side]) for row in rows] for side in (0, 1))
        with torch.inference_mode():
            logits = self._model(
                input_ids=pad_sequence(sources, batch_first=True),
                attention_mask=pad_sequence([torch.ones_like(each) for each in sources], batch_first=True),
                # Padding comes after all that a text's last token attends to.
                decoder_input_ids=pad_sequence(texts, batch_first=True),
            ).logits
        last = torch.tensor([len(text) - 1 for text in texts])
        return np.asarray(logits[torch.arange(len(rows)), last].numpy(), np.float32)
