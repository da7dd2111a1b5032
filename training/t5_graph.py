"""The graphs of a T5: no positions but a bias of attention by distance, RMS norms before each part, no other biases
(Raffel et al., arXiv:1910.10683)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper
from transformers.models.t5.modeling_t5 import T5Attention

from training.causal_graph import ACTIVATIONS, MS, Array
from training.seq2seq_graph import Side, SourceDecoder, SourceEncoder


class _T5(Side):
    side: str  # encoder, decoder

    def __init__(self, config: Any, state: Mapping[str, Array]) -> None:
        super().__init__(config, state)
        if config.dense_act_fn not in ACTIVATIONS:
            raise ValueError(
                f"T5 activation {config.dense_act_fn!r} is not supported by the graph writer; "
                f"{', '.join(ACTIVATIONS)} are."
            )
        self.heads, self.head_dim, self.scale = config.num_heads, config.d_kv, 1.0
        self.layers = config.num_decoder_layers
        self.farthest = config.relative_attention_max_distance  # from there on all distances are one

    def embedded(self) -> str:
        """input_ids (B, T) -> (B, T, E)."""
        x: str = self.node("Gather", [self.weight("words", self.state["shared.weight"]), "input_ids"])
        return x

    def norm(self, x: str, branch: str | None, name: str) -> tuple[str, str]:
        """RMS norm of x [+ branch] -> (normed, the sum)."""
        gamma = self.weight(f"{name}.weight", self.state[f"{name}.weight"])
        epsilon = float(self.config.layer_norm_epsilon)
        if branch is None:
            return self.node("SimplifiedLayerNormalization", [x, gamma], epsilon=epsilon, axis=-1, stash_type=1), x
        normed = f"norm_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(
                "SkipSimplifiedLayerNormalization",
                [x, branch, gamma],
                [normed, "", "", f"{normed}.sum"],
                domain=MS,
                name=normed,
                epsilon=epsilon,
            )
        )
        return normed, f"{normed}.sum"

    def feed_forward(self, x: str, prefix: str) -> str:
        """wo(activation(wi(x))), gated where the model is."""
        operator, domain = ACTIVATIONS[self.config.dense_act_fn]
        if not self.config.is_gated_act:
            raised = self.node(operator, [self.projected(x, [f"{prefix}wi"], padded=False)], domain=domain)
            return self.projected(raised, [f"{prefix}wo"], padded=False)
        both = self.projected(x, [f"{prefix}wi_0", f"{prefix}wi_1"], padded=False)
        gate, raised = self.node("Split", [both], outputs=2, axis=-1, num_outputs=2)
        gated = self.node("Mul", [self.node(operator, [gate], domain=domain), raised])
        return self.projected(gated, [f"{prefix}wo"], padded=False)

    def bias_by_distance(self, distances: Sequence[int], index: str, order: Sequence[int]) -> str:
        """The bias of each head: `index` (B, …) into `distances` of keys from their query -> (B, …, H), transposed."""
        buckets = T5Attention._relative_position_bucket(
            torch.tensor(distances),
            bidirectional=self.side == "encoder",
            num_buckets=self.config.relative_attention_num_buckets,
            max_distance=self.farthest,
        )
        name = f"{self.side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        # As one row of weights for each distance: not a Gather, whose table would be quantised.
        table = self.weight("bias_by_distance", self.state[name][buckets.numpy()])
        found = self.node("GatherND", [table, self.node("Unsqueeze", [index, self.constant(-1)])])
        biases: str = self.node("Transpose", [found], perm=order)
        return biases

    def names(self, prefix: str) -> list[str]:
        """Of the linear layers for queries, keys and values."""
        return [f"{prefix}SelfAttention.{part}" for part in "qkv"]


class T5Encoder(_T5, SourceEncoder):
    """See SourceEncoder."""

    side = "encoder"

    def build(self) -> str:
        """See SourceEncoder."""
        self.decoder_heads = (self.heads, self.head_dim)
        farthest = self.farthest
        keys, queries = (self.node("Unsqueeze", ["position_ids", self.constant(axis)]) for axis in (1, 2))
        low, high = (self.weight(f"farthest_{sign}", np.asarray(sign * farthest, np.int64)) for sign in (-1, 1))
        near = self.node("Clip", [self.node("Sub", [keys, queries]), low, high])
        index = self.node("Add", [near, high])  # (1, S, S)
        bias = self.bias_by_distance(range(-farthest, farthest + 1), index, [0, 3, 1, 2])
        stream, branch = self.embedded(), None
        for layer in range(self.config.num_layers):
            prefix = f"encoder.block.{layer}.layer."
            x, stream = self.norm(stream, branch, f"{prefix}0.layer_norm")
            found = self.returned(
                self.whole_attention(x, self.names(f"{prefix}0."), bias), f"{prefix}0.SelfAttention.o", padded=False
            )
            x, stream = self.norm(stream, found, f"{prefix}1.layer_norm")
            branch = self.feed_forward(x, f"{prefix}1.DenseReluDense.")
        return self.norm(stream, branch, "encoder.final_layer_norm")[0]

    def source_layer(self, layer: int, part: str) -> str:
        """See SourceEncoder."""
        return f"decoder.block.{layer}.layer.1.EncDecAttention.{part[0]}"


class T5Decoder(_T5, SourceDecoder):
    """See SourceDecoder."""

    side = "decoder"

    def build(self) -> None:
        """See SourceDecoder."""
        zero, one, farthest = (
            self.weight(f"number_{value}", np.asarray(value, np.int64)) for value in (0, 1, self.farthest)
        )
        total = self.node("Cast", ["total_sequence_length"], to=TensorProto.INT64)
        places = self.node("Range", [zero, total, one])
        # How far back each place of the cache is; those after the token itself are not attended to.
        back = self.node("Clip", [self.node("Sub", ["position_ids", places]), zero, farthest])  # (B, total)
        bias = self.bias_by_distance(range(0, -self.farthest - 1, -1), back, [0, 2, 1])
        bias = self.node("Unsqueeze", [bias, self.constant(2)])  # (B, H, 1, total)
        stream, branch = self.embedded(), None
        for layer in range(self.layers):
            prefix = f"decoder.block.{layer}.layer."
            x, stream = self.norm(stream, branch, f"{prefix}0.layer_norm")
            found = self.text_attention(x, self.names(f"{prefix}0."), layer, bias)
            found = self.returned(found, f"{prefix}0.SelfAttention.o", padded=True)
            x, stream = self.norm(stream, found, f"{prefix}1.layer_norm")
            found = self.source_attention(x, f"{prefix}1.EncDecAttention.q", layer)
            found = self.returned(found, f"{prefix}1.EncDecAttention.o", padded=True)
            x, stream = self.norm(stream, found, f"{prefix}2.layer_norm")
            branch = self.feed_forward(x, f"{prefix}2.DenseReluDense.")
        x, _ = self.norm(stream, branch, "decoder.final_layer_norm")
        # The first T5 scales what goes into its output layer, which is that of its embeddings.
        scale = self.config.d_model**-0.5 if self.config.scale_decoder_outputs else 1.0
        head = np.float32(scale) * self.state.get("lm_head.weight", self.state["shared.weight"]).T
        self.nodes.append(helper.make_node("MatMul", [x, self.weight("lm_head.weight", head)], ["logits"]))
