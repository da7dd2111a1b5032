"""Writes the two ONNX graphs of a BART, its encoder's and its decoder's, from a state dict.

The encoder reads one source as a whole and gives, for each layer of the decoder, the keys and values that it attends
to. The decoder takes one token a row. To its own text it attends as causal graphs do (training/causal_graph.py); to the
source by GroupQueryAttention without new keys, over a buffer that it only reads, each row to its own length
(docs/adr/0011).
Shapes: B rows, S tokens of a source, E hidden, H heads, D head size in the caches, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper

from training.causal_graph import ACTIVATIONS, MS, Array, GraphNodes, as_model, save_graph

POSITION_OFFSET = 2  # rows of BART's position embeddings that are never used
EPSILON = 1e-5  # of its layer norms


def write_seq2seq_graphs(config: Any, state: Mapping[str, Array], encoder: Path, decoder: Path) -> int:
    """Write the fp32 graphs of a model, from its transformers configuration and its weights.

    Returns the head size of the decoder's caches, which may be padded. Raises ValueError for a setting that the graphs
    do not carry.
    """
    if config.activation_function not in ACTIVATIONS:
        raise ValueError(
            f"BART activation {config.activation_function!r} is not supported by the graph writer; "
            f"{', '.join(ACTIVATIONS)} are."
        )
    _BartEncoder(config, state).write(encoder)
    return _BartDecoder(config, state).write(decoder)


class _Bart(GraphNodes):
    """What both sides share. Every layer norm comes after a sum."""

    def __init__(self, config: Any, state: Mapping[str, Array], side: str) -> None:
        super().__init__(config, state)
        self.side = f"model.{side}."
        self.layers = getattr(config, f"{side}_layers")
        self.heads = getattr(config, f"{side}_attention_heads")
        self.head_dim = config.d_model // self.heads

    def embedded(self) -> str:
        """input_ids, position_ids (B, T) -> (B, T, E)."""
        scale = math.sqrt(self.config.d_model) if self.config.scale_embedding else 1.0
        words = self.weight("words", np.float32(scale) * self.state["model.shared.weight"])
        places = self.weight("places", self.state[f"{self.side}embed_positions.weight"][POSITION_OFFSET:])
        x = self.node("Gather", [words, "input_ids"])
        return self.norm(x, self.node("Gather", [places, "position_ids"]), f"{self.side}layernorm_embedding")

    def norm(self, x: str, other: str, name: str) -> str:
        """Layer norm of x + other."""
        gamma, beta = (self.weight(f"{name}.{part}", self.state[f"{name}.{part}"]) for part in ("weight", "bias"))
        normed: str = self.node("SkipLayerNormalization", [x, other, gamma, beta], domain=MS, epsilon=EPSILON)
        return normed

    def projected(self, x: str, names: Sequence[str], *, padded: bool) -> str:
        """The linear layers `names` of x side by side; `padded`: each head to the caches' size."""
        parts = []
        for part in ("weight", "bias"):
            rows = [np.atleast_2d(self.state[f"{name}.{part}"].T) for name in names]  # (in, out)
            if padded:
                rows = [self.pad_columns(each, self.heads, halves=False) for each in rows]
            parts.append(np.concatenate(rows, axis=1))
        return self.linear(x, names[0] if len(names) == 1 else f"{names[0]}.packed", parts[0], parts[1][0])

    def returned(self, x: str, name: str, *, padded: bool) -> str:
        """What all heads found, back to (B, T, E)."""
        weight = self.state[f"{name}.weight"]
        columns = self.pad_columns(weight, self.heads, halves=False) if padded else weight
        return self.linear(x, name, columns.T, self.state[f"{name}.bias"])

    def feed_forward(self, x: str, prefix: str) -> str:
        """fc2(activation(fc1(x)))."""
        operator, domain = ACTIVATIONS[self.config.activation_function]
        raised = self.node(operator, [self.projected(x, [f"{prefix}fc1"], padded=False)], domain=domain)
        return self.projected(raised, [f"{prefix}fc2"], padded=False)


class _BartEncoder(_Bart):
    def __init__(self, config: Any, state: Mapping[str, Array]) -> None:
        super().__init__(config, state, "encoder")

    def write(self, path: Path) -> None:
        """input_ids, position_ids (1, S) -> source.L.key and source.L.value (1, H, S, D) of the decoder's layers."""
        x = self.embedded()
        for layer in range(self.layers):
            prefix = f"{self.side}layers.{layer}."
            packed = self.projected(x, [f"{prefix}self_attn.{name}_proj" for name in "qkv"], padded=False)
            parts = self.node("Split", [packed], outputs=3, axis=-1, num_outputs=3)
            found = self.node("MultiHeadAttention", parts, domain=MS, num_heads=self.heads)
            found = self.returned(found, f"{prefix}self_attn.out_proj", padded=False)
            x = self.norm(x, found, f"{prefix}self_attn_layer_norm")
            x = self.norm(x, self.feed_forward(x, prefix), f"{prefix}final_layer_norm")
        self.heads = self.config.decoder_attention_heads
        self.head_dim = self.config.d_model // self.heads
        shape = self.weight("by_head", np.asarray([0, 0, self.heads, self.padded], np.int64))
        outputs = []
        for layer in range(self.config.decoder_layers):
            for part in ("key", "value"):
                name = f"model.decoder.layers.{layer}.encoder_attn.{part[0]}_proj"
                by_head = self.node("Reshape", [self.projected(x, [name], padded=True), shape])
                outputs.append(_cache("source", layer, part, (1, self.heads, "S", self.padded)))
                self.nodes.append(helper.make_node("Transpose", [by_head], [outputs[-1].name], perm=[0, 2, 1, 3]))
        value = helper.make_tensor_value_info
        inputs = [value(name, TensorProto.INT64, (1, "S")) for name in ("input_ids", "position_ids")]
        save_graph(as_model(helper.make_graph(self.nodes, "encoder", inputs, outputs, self.weights)), path)


class _BartDecoder(_Bart):
    def __init__(self, config: Any, state: Mapping[str, Array]) -> None:
        super().__init__(config, state, "decoder")
        self.nothing = ""

    def attention(self, name: str, inputs: Sequence[str], outputs: Sequence[str]) -> str:
        """GroupQueryAttention with all heads of their own keys."""
        self.nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                inputs,
                [name, *outputs],
                domain=MS,
                name=name,
                num_heads=self.heads,
                kv_num_heads=self.heads,
                scale=1 / math.sqrt(self.head_dim),  # of the unpadded head
            )
        )
        return name

    def to_text(self, x: str, prefix: str, layer: int) -> str:
        """The text so far; appends this token's keys and values to the cache."""
        packed = self.projected(x, [f"{prefix}self_attn.{name}_proj" for name in "qkv"], padded=True)
        past, present = (
            [f"{kind}.{layer}.{part}" for part in ("key", "value")] for kind in ("past_key_values", "present")
        )
        lengths = ["seqlens_k", "total_sequence_length"]
        found = self.attention(f"text_{layer}", [packed, "", "", *past, *lengths], present)
        return self.returned(found, f"{prefix}self_attn.out_proj", padded=True)

    def to_source(self, x: str, prefix: str, layer: int) -> str:
        """The source, whose keys and values are all there."""
        query = self.projected(x, [f"{prefix}encoder_attn.q_proj"], padded=True)
        if not self.nothing:
            zero, one = (self.weight(name, np.asarray([value], np.int64)) for name, value in (("zero", 0), ("one", 1)))
            self.nothing = self.node("Slice", [query, zero, zero, one])  # (B, 0, H D)
        past = [f"source.{layer}.{part}" for part in ("key", "value")]
        lengths = ["source_seqlens_k", "source_total_length"]
        found = self.attention(f"source_{layer}", [query, self.nothing, self.nothing, *past, *lengths], [])
        return self.returned(found, f"{prefix}encoder_attn.out_proj", padded=True)

    def write(self, path: Path) -> int:
        """input_ids, position_ids (B, 1), caches -> logits (B, 1, V), present.L.key|value."""
        x = self.embedded()
        for layer in range(self.layers):
            prefix = f"{self.side}layers.{layer}."
            x = self.norm(x, self.to_text(x, prefix, layer), f"{prefix}self_attn_layer_norm")
            x = self.norm(x, self.to_source(x, prefix, layer), f"{prefix}encoder_attn_layer_norm")
            x = self.norm(x, self.feed_forward(x, prefix), f"{prefix}final_layer_norm")
        head = self.state.get("lm_head.weight", self.state["model.shared.weight"]).T
        product = self.node("MatMul", [x, self.weight("lm_head.weight", head)])
        bias = self.weight("final_logits_bias", self.state["final_logits_bias"][0])
        self.nodes.append(helper.make_node("Add", [product, bias], ["logits"]))
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
