"""The cross-encoder: both texts in one sequence, one pass, one decision (Nogueira and Cho, arXiv:1901.04085).

    [CLS] a … [SEP] b … [SEP]  (B, T)  -> encoder (B, T, E) -> pooled (B, E) -> dropout -> linear (B, C)

Not here: the tokeniser's side (runtime/text.py) and the loss, which the model computes from `labels` by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from models.registry import register_networks


def build(base: Path, *, labels: Sequence[str], dropout: float) -> PreTrainedModel:
    """A classification model on the encoder in the folder `base`, with a new head of len(labels) classes.

    `dropout` is the one before the prediction layer; those inside the encoder stay as the base has them. A head that
    the base brings is kept if it has as many classes. The new head draws from torch's random state: seed it first.
    Raises ValueError: the folder is not an encoder that transformers can classify with, or lacks weights of it.
    """
    register_networks()
    try:
        config = AutoConfig.from_pretrained(
            base,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
            problem_type="single_label_classification",
        )
        model, info = AutoModelForSequenceClassification.from_pretrained(
            base, config=config, dtype="float32", ignore_mismatched_sizes=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{base} cannot become a cross-encoder: {error}") from None
    encoder = f"{model.base_model_prefix}."
    # A pooler that the base never had is part of the new head.
    lost = sorted(key for key in info["missing_keys"] if key.startswith(encoder) and ".pooler." not in key)
    if lost:
        raise ValueError(
            f"{base} lacks {len(lost)} weights of the {config.model_type} encoder ({', '.join(lost[:3])}, …): "
            "it is another architecture than its config.json says, or the file is incomplete."
        )
    set_head_dropout(model, dropout)
    return model


def set_head_dropout(model: PreTrainedModel, dropout: float) -> None:
    """Set the dropout between encoder and prediction layer.

    Done on the modules because every family names the setting differently, or shares it with the whole encoder.
    Raises ValueError if the head has none.
    """
    encoder = f"{model.base_model_prefix}."
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Dropout) and not name.startswith(encoder)
    ]
    if not layers:
        raise ValueError(f"The head of {type(model).__name__} has no dropout; take another encoder as base.")
    for layer in layers:
        layer.p = dropout


def freeze_embeddings(model: PreTrainedModel) -> int:
    """Keep the word embeddings as they are; returns how many parameters that takes out of training.

    About half of MiniLM's parameters are word embeddings: their gradient is dense, so leaving them out saves time and
    two thirds of the optimizer's memory, and keeps words that the data does not have where the base put them.
    """
    weight = model.get_input_embeddings().weight  # (V, E)
    weight.requires_grad_(False)
    return int(weight.numel())
