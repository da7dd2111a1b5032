"""Causal language models: GPT-2 and Llama shapes, from a shape or from a folder with weights.

    ids (B, T) -> embeddings (B, T, E) -> layers of causal attention (H heads of D = E / H) -> logits (B, T, V)

Both tie the output layer to the embeddings, which at these sizes saves up to a third of the parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a new model looks like: `hidden` E, `heads` H, `max_tokens` the longest T; `end_id` stands between texts."""

    vocab_size: int
    max_tokens: int
    layers: int
    hidden: int
    heads: int
    dropout: float
    end_id: int
    kv_heads: int | None = None  # Llama only; None: as many as heads


def build_gpt2(shape: Shape) -> PreTrainedModel:
    """A GPT-2 with new weights, drawn from torch's random state. Raises ValueError for a shape that cannot be."""
    _check(shape)
    if shape.kv_heads not in (None, shape.heads):
        raise ValueError(f"kv_heads {shape.kv_heads}: gpt2 has as many as heads ({shape.heads}); llama may have fewer.")
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=shape.vocab_size,
            n_positions=shape.max_tokens,
            n_embd=shape.hidden,
            n_layer=shape.layers,
            n_head=shape.heads,
            resid_pdrop=shape.dropout,
            embd_pdrop=shape.dropout,
            attn_pdrop=shape.dropout,
            bos_token_id=shape.end_id,
            eos_token_id=shape.end_id,
        )
    )


def build_llama(shape: Shape) -> PreTrainedModel:
    """A Llama with new weights, drawn from torch's random state. Raises ValueError for a shape that cannot be.

    The family has dropout in attention only.
    """
    _check(shape)
    kv_heads = shape.kv_heads or shape.heads
    if shape.heads % kv_heads:
        raise ValueError(f"heads {shape.heads} must be a multiple of kv_heads {kv_heads}.")
    if shape.hidden // shape.heads % 2:
        raise ValueError(f"hidden {shape.hidden} / heads {shape.heads} must be even: rotary positions turn pairs.")
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocab_size,
            max_position_embeddings=shape.max_tokens,
            hidden_size=shape.hidden,
            # SwiGLU has three matrices: 8/3 of the width makes it as large as GPT-2's MLP, rounded up for SIMD.
            intermediate_size=-(-shape.hidden * 8 // 3 // 32) * 32,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=kv_heads,
            attention_dropout=shape.dropout,
            tie_word_embeddings=True,
            bos_token_id=shape.end_id,
            eos_token_id=shape.end_id,
        )
    )


def load(base: Path) -> PreTrainedModel:
    """The causal model in the folder `base`, to be trained further. Raises ValueError if it is none."""
    try:
        config = AutoConfig.from_pretrained(base)
        model, info = AutoModelForCausalLM.from_pretrained(
            base, config=config, dtype="float32", output_loading_info=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{base} cannot be loaded as a causal language model: {error}") from None
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(f"{base} lacks {len(missing)} weights of its {config.model_type} model: {missing[0]}, …")
    return model


def _check(shape: Shape) -> None:
    if shape.hidden % shape.heads:
        raise ValueError(f"hidden {shape.hidden} must be a multiple of heads {shape.heads}.")
