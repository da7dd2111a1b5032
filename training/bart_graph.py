"""The graphs of a BART: learned positions, every layer norm after a sum (Lewis et al., arXiv:1910.13461)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import helper

from training.causal_graph import ACTIVATIONS, MS, Array
from training.seq2seq_graph import Side, SourceDecoder, SourceEncoder

POSITION_OFFSET = 2  # rows of the position embeddings that are never used
EPSILON = 1e-5  # of layer norms


class _Bart(Side):
    side: str  # encoder, decoder

    def __init__(self, config: Any, state: Mapping[str, Array]) -> None:
        super().__init__(config, state)
        if config.activation_function not in ACTIVATIONS:
            raise ValueError(
                f"BART activation {config.activation_function!r} is not supported by the graph writer; "
                f"{', '.join(ACTIVATIONS)} are."
            )
        self.prefix = f"model.{self.side}."
        self.heads = getattr(config, f"{self.side}_attention_heads")
        self.head_dim = config.d_model // self.heads
        self.scale = 1 / math.sqrt(self.head_dim)  # of the unpadded head
        self.layers = config.decoder_layers

    def embedded(self) -> str:
        """input_ids, position_ids (B, T) -> (B, T, E)."""
        scale = math.sqrt(self.config.d_model) if self.config.scale_embedding else 1.0
        words = self.weight("words", np.float32(scale) * self.state["model.shared.weight"])
        places = self.weight("places", self.state[f"{self.prefix}embed_positions.weight"][POSITION_OFFSET:])
        x = self.node("Gather", [words, "input_ids"])
        return self.norm(x, self.node("Gather", [places, "position_ids"]), f"{self.prefix}layernorm_embedding")

    def norm(self, x: str, other: str, name: str) -> str:
        """Layer norm of x + other."""
        gamma, beta = (self.weight(f"{name}.{part}", self.state[f"{name}.{part}"]) for part in ("weight", "bias"))
        normed: str = self.node("SkipLayerNormalization", [x, other, gamma, beta], domain=MS, epsilon=EPSILON)
        return normed

    def feed_forward(self, x: str, prefix: str) -> str:
        """x and fc2(activation(fc1(x))), normed."""
        operator, domain = ACTIVATIONS[self.config.activation_function]
        raised = self.node(operator, [self.projected(x, [f"{prefix}fc1"], padded=False)], domain=domain)
        return self.norm(x, self.projected(raised, [f"{prefix}fc2"], padded=False), f"{prefix}final_layer_norm")


class BartEncoder(_Bart, SourceEncoder):
    """See SourceEncoder."""

    side = "encoder"

    def build(self) -> str:
        """See SourceEncoder."""
        heads = self.config.decoder_attention_heads
        self.decoder_heads = (heads, self.config.d_model // heads)
        x = self.embedded()
        for layer in range(self.config.encoder_layers):
            prefix = f"{self.prefix}layers.{layer}."
            found = self.whole_attention(x, [f"{prefix}self_attn.{name}_proj" for name in "qkv"])
            found = self.returned(found, f"{prefix}self_attn.out_proj", padded=False)
            x = self.feed_forward(self.norm(x, found, f"{prefix}self_attn_layer_norm"), prefix)
        return x

    def source_layer(self, layer: int, part: str) -> str:
        """See SourceEncoder."""
        return f"model.decoder.layers.{layer}.encoder_attn.{part[0]}_proj"


class BartDecoder(_Bart, SourceDecoder):
    """See SourceDecoder."""

    side = "decoder"

    def build(self) -> None:
        """See SourceDecoder."""
        x = self.embedded()
        for layer in range(self.layers):
            prefix = f"{self.prefix}layers.{layer}."
            found = self.text_attention(x, [f"{prefix}self_attn.{name}_proj" for name in "qkv"], layer)
            found = self.returned(found, f"{prefix}self_attn.out_proj", padded=True)
            x = self.norm(x, found, f"{prefix}self_attn_layer_norm")
            found = self.source_attention(x, f"{prefix}encoder_attn.q_proj", layer)
            found = self.returned(found, f"{prefix}encoder_attn.out_proj", padded=True)
            x = self.feed_forward(self.norm(x, found, f"{prefix}encoder_attn_layer_norm"), prefix)
        head = self.state.get("lm_head.weight", self.state["model.shared.weight"]).T
        product = self.node("MatMul", [x, self.weight("lm_head.weight", head)])
        bias = self.weight("final_logits_bias", self.state["final_logits_bias"][0])
        self.nodes.append(helper.make_node("Add", [product, bias], ["logits"]))
