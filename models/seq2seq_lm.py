"""Encoder-decoders: the shapes of BART and T5, from nothing or from a folder with weights.

    source (B, S) -> encoder (B, S, E)
    target so far (B, T) -> decoder, which attends to both (B, T, E) -> logits (B, T, V)

Embeddings of both sides and output layer are one. Lewis et al., arXiv:1910.13461; Raffel et al., arXiv:1910.10683.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

FFN_FACTOR = 4  # width of the feed-forward part, in hidden
SUPPORTED = ("bart", "t5")  # transformers' model types


@dataclass(frozen=True, slots=True)
class Shape:
    """What a new model looks like: `hidden` E, `heads` H, `layers` of each side, `max_tokens` the longest S and T.

    `end_id` ends a target, and what the decoder begins with is the same token.
    """

    vocab_size: int
    max_tokens: int
    layers: int
    hidden: int
    heads: int
    dropout: float
    end_id: int
    padding_id: int


def build_bart(shape: Shape) -> PreTrainedModel:
    """A BART with new weights, drawn from torch's random state. Raises ValueError for a shape that cannot be."""
    _check(shape)
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=shape.vocab_size,
            max_position_embeddings=shape.max_tokens,
            d_model=shape.hidden,
            encoder_layers=shape.layers,
            decoder_layers=shape.layers,
            encoder_attention_heads=shape.heads,
            decoder_attention_heads=shape.heads,
            encoder_ffn_dim=FFN_FACTOR * shape.hidden,
            decoder_ffn_dim=FFN_FACTOR * shape.hidden,
            dropout=shape.dropout,
            attention_dropout=shape.dropout,
            pad_token_id=shape.padding_id,
            bos_token_id=shape.end_id,
            eos_token_id=shape.end_id,
            decoder_start_token_id=shape.end_id,
            forced_eos_token_id=None,
            init_std=shape.hidden**-0.5,  # products then keep their size; BART's own 0.02 is for large ones
        )
    )


def build_t5(shape: Shape) -> PreTrainedModel:
    """A T5 (1.1, gated GELU) with new weights, drawn from torch's random state. Raises ValueError as `build_bart`."""
    _check(shape)
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=shape.vocab_size,
            d_model=shape.hidden,
            d_kv=shape.hidden // shape.heads,
            # Gated, it has three matrices: 8/3 of the width makes it as large as BART's, rounded up for SIMD.
            d_ff=-(-shape.hidden * 8 // 3 // 32) * 32,
            num_layers=shape.layers,
            num_heads=shape.heads,
            dropout_rate=shape.dropout,
            feed_forward_proj="gated-gelu",
            pad_token_id=shape.padding_id,
            eos_token_id=shape.end_id,
            decoder_start_token_id=shape.end_id,
        )
    )


def load(base: Path) -> PreTrainedModel:
    """The encoder-decoder in the folder `base`, to be trained further. Raises ValueError if it is none of ours."""
    try:
        config = AutoConfig.from_pretrained(base)
        if config.model_type not in SUPPORTED:
            raise ValueError(f"model type {config.model_type!r} is none of {', '.join(SUPPORTED)}")
        model, info = AutoModelForSeq2SeqLM.from_pretrained(
            base, config=config, dtype="float32", output_loading_info=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{base} cannot be loaded as an encoder-decoder: {error}") from None
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(f"{base} lacks {len(missing)} weights of its {config.model_type} model: {missing[0]}, …")
    return model


def _check(shape: Shape) -> None:
    if shape.hidden % shape.heads:
        raise ValueError(f"hidden {shape.hidden} must be a multiple of heads {shape.heads}.")
