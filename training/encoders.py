"""The recipe's encoder: the base's with its tokenizer, or a new one with a tokenizer made from the texts of train."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from models import encoder
from models.registry import register_networks
from runtime.errors import InvalidInput
from training.model_section import EncoderSection
from training.vocabulary import train_encoder_bpe


def prepare_tokenizer(
    model: EncoderSection, base: Path | None, texts: Sequence[str], work: Path
) -> PreTrainedTokenizerBase:
    """The tokenizer, also saved to the folder `work` as `tokenizer.json`. Raises InvalidInput: the base has no such."""
    tokenizer: PreTrainedTokenizerBase
    if base is None:
        assert model.encoder is not None  # the recipe's own check
        tokenizer = train_encoder_bpe(texts, model.encoder.vocab_size, model.max_tokens)
    else:
        register_networks()
        try:
            tokenizer = AutoTokenizer.from_pretrained(base)
        except (OSError, ValueError, ImportError) as error:
            raise InvalidInput(f"The tokenizer of {base} cannot be loaded: {error}") from None
        tokenizer.model_max_length = model.max_tokens
    tokenizer.save_pretrained(work)
    if not (work / "tokenizer.json").is_file():
        raise InvalidInput(f"{base} has no fast tokenizer (tokenizer.json), which serving needs.")
    return tokenizer


def prepare_encoder(model: EncoderSection, base: Path | None, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The network below the head. Raises ValueError: the base is no encoder, or incomplete."""
    if base is not None:
        return encoder.load(base)
    shape = model.encoder
    assert shape is not None  # the recipe's own check
    return encoder.create(
        shape.architecture,
        vocab_size=len(tokenizer),
        embedding_size=shape.embedding,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        hidden_dropout_prob=shape.dropout,
        max_position_embeddings=model.max_tokens,
        pad_token_id=tokenizer.pad_token_id,
    )
