"""What the two ONNX graphs of an encoder-decoder are, its encoder's and its decoder's, whatever family they are of.

The encoder reads one source as a whole and gives, for each layer of the decoder, the keys and values that it attends
to. The decoder takes one token a row. To its own text it attends as causal graphs do (training/causal_graph.py); to the
source by GroupQueryAttention without new keys, over a buffer that it only reads, each row to its own length
(docs/adr/0011).
Shapes: B rows, S tokens of a source, E hidden, H heads, D head size in the caches, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper

from training.causal_graph import MS, Array, GraphNodes, as_model, save_graph


class Side(GraphNodes):
    """One side of an encoder-decoder. `scale`: of attention's products."""

    heads: int
    layers: int
    scale: float

    def projected(self, x: str, names: Sequence[str], *, padded: bool) -> str:
        """The linear layers `names` of x side by side; `padded`: each head to the caches' size."""
        parts = []
        for part in ("weight", "bias") if f"{names[0]}.bias" in self.state else ("weight",):
            rows = [np.atleast_2d(self.state[f"{name}.{part}"].T) for name in names]  # (in, out)
            if padded:
                rows = [self.pad_columns(each, self.heads, halves=False) for each in rows]
            parts.append(np.concatenate(rows, axis=1))
        name = names[0] if len(names) == 1 else f"{names[0]}.packed"
        return self.linear(x, name, parts[0], parts[1][0] if len(parts) > 1 else None)

    def returned(self, x: str, name: str, *, padded: bool) -> str:
        """What all heads found, back to (B, T, E)."""
        weight = self.state[f"{name}.weight"]
        columns = self.pad_columns(weight, self.heads, halves=False) if padded else weight
        return self.linear(x, name, columns.T, self.state.get(f"{name}.bias"))

    def constant(self, *values: int) -> str:
        """A vector of whole numbers."""
        return self.weight(f"constant_{len(self.weights)}", np.asarray(values, np.int64))


class SourceEncoder(Side, ABC):
    """input_ids, position_ids (1, S) -> source.L.key and source.L.value (1, H, S, D) of the decoder's L layers."""

    decoder_heads: tuple[int, int]  # how many, and of what size

    @abstractmethod
    def build(self) -> str:
        """Append the nodes from input_ids to the last hidden states (1, S, E)."""

    @abstractmethod
    def source_layer(self, layer: int, part: str) -> str:
        """The linear layer that makes a decoder layer's `key` or `value` of the source."""

    def whole_attention(self, x: str, names: Sequence[str], bias: str = "") -> str:
        """Each token to all, by the linear layers `names` for queries, keys and values."""
        parts = self.node("Split", [self.projected(x, names, padded=False)], outputs=3, axis=-1, num_outputs=3)
        inputs = [*parts, "", "", bias] if bias else parts
        found: str = self.node("MultiHeadAttention", inputs, domain=MS, num_heads=self.heads, scale=self.scale)
        return found

    def write(self, path: Path) -> None:
        """Build the nodes and save the model."""
        x = self.build()
        self.heads, self.head_dim = self.decoder_heads
        shape = self.constant(0, 0, self.heads, self.padded)
        outputs = []
        for layer in range(self.layers):
            for part in ("key", "value"):
                by_head = self.node(
                    "Reshape", [self.projected(x, [self.source_layer(layer, part)], padded=True), shape]
                )
                outputs.append(_cache("source", layer, part, (1, self.heads, "S", self.padded)))
                self.nodes.append(helper.make_node("Transpose", [by_head], [outputs[-1].name], perm=[0, 2, 1, 3]))
        value = helper.make_tensor_value_info
        inputs = [value(name, TensorProto.INT64, (1, "S")) for name in ("input_ids", "position_ids")]
        save_graph(as_model(helper.make_graph(self.nodes, "encoder", inputs, outputs, self.weights)), path)


class SourceDecoder(Side, ABC):
    """input_ids, position_ids (B, 1), lengths, caches of text and source -> logits (B, 1, V), present.L.key|value."""

    def __init__(self, config: Any, state: Mapping[str, Array]) -> None:
        super().__init__(config, state)
        self.nothing = ""

    @abstractmethod
    def build(self) -> None:
        """Append the nodes from input_ids to logits."""

    def text_attention(self, x: str, names: Sequence[str], layer: int, bias: str = "") -> str:
        """To the text so far; appends this token's keys and values to the cache."""
        packed = self.projected(x, names, padded=True)
        past, present = (
            [f"{kind}.{layer}.{part}" for part in ("key", "value")] for kind in ("past_key_values", "present")
        )
        inputs = [packed, "", "", *past, "seqlens_k", "total_sequence_length"]
        return self._attention(f"text_{layer}", [*inputs, "", "", "", bias] if bias else inputs, present)

    def source_attention(self, x: str, name: str, layer: int) -> str:
        """To the source, whose keys and values are all there."""
        query = self.projected(x, [name], padded=True)
        if not self.nothing:
            zero, one = self.constant(0), self.constant(1)
            self.nothing = self.node("Slice", [query, zero, zero, one])  # (B, 0, H D)
        past = [f"source.{layer}.{part}" for part in ("key", "value")]
        lengths = ["source_seqlens_k", "source_total_length"]
        return self._attention(f"source_{layer}", [query, self.nothing, self.nothing, *past, *lengths], [])

    def _attention(self, name: str, inputs: Sequence[str], outputs: Sequence[str]) -> str:
        """GroupQueryAttention, each head with keys of its own."""
        self.nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                inputs,
                [name, *outputs],
                domain=MS,
                name=name,
                num_heads=self.heads,
                kv_num_heads=self.heads,
                scale=self.scale,
            )
        )
        return name

    def write(self, path: Path) -> int:
        """Build the nodes, save the model, return the caches' head size."""
        self.build()
        value = helper.make_tensor_value_info
        inputs = [value(name, TensorProto.INT64, ("B", 1)) for name in ("input_ids", "position_ids")]
        outputs = [value("logits", TensorProto.FLOAT, ("B", 1, self.config.vocab_size))]
        for lengths, total in (("seqlens_k", "total_sequence_length"), ("source_seqlens_k", "source_total_length")):
            inputs += [value(lengths, TensorProto.INT32, ("B",)), value(total, TensorProto.INT32, ())]
        for layer in range(self.layers):
            for part in ("key", "value"):
                inputs.append(_cache("past_key_values", layer, part, ("B", self.heads, "T", self.padded)))
                inputs.append(_cache("source", layer, part, ("B", self.heads, "S", self.padded)))
                outputs.append(_cache("present", layer, part, ("B", self.heads, "T", self.padded)))
        save_graph(as_model(helper.make_graph(self.nodes, "decoder", inputs, outputs, self.weights)), path)
        return self.padded


def _cache(kind: str, layer: int, part: str, shape: tuple[int | str, ...]) -> ValueInfoProto:
    return helper.make_tensor_value_info(f"{kind}.{layer}.{part}", TensorProto.FLOAT, shape)
