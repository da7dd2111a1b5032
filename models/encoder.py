"""Where the encoder under a head comes from: a folder with weights, or a shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, PreTrainedModel

from models.registry import builder, register_networks


def load(folder: Path) -> PreTrainedModel:
    """The encoder in `folder`, in fp32. Raises ValueError: it is none, or weights of it are missing."""
    register_networks()
    try:
        encoder, info = AutoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder} cannot be loaded as an encoder: {error}") from None
    # BERT's own pooler reads the first token for a head that is not ours, and is often not saved.
    lost = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if lost:
        raise ValueError(f"{folder} lacks {len(lost)} weights of its {encoder.config.model_type} encoder: {lost[0]}, …")
    return encoder  # type: ignore[no-any-return]


def create(architecture: str, **shape: Any) -> PreTrainedModel:
    """A new encoder, drawn from torch's random state; `shape` is that of models.sequence_encoder.SequenceConfig."""
    register_networks()
    network: Any = builder("encoder", architecture)
    return network(network.config_class(**shape))  # type: ignore[no-any-return]
