"""How many tokens the positions of a network allow."""

from __future__ import annotations

from transformers import PretrainedConfig

# These count positions from the padding token's id + 1, so two of their embeddings are never used.
COUNTED_FROM_PADDING = {"roberta", "xlm-roberta", "camembert", "narrow-roberta", "narrow-xlm-roberta"}

T5_TOKENS = 512  # its attention looks at distances, of which all are known; it was trained on so many


def usable_positions(config: PretrainedConfig) -> int:
    """The longest sequence, special tokens included."""
    config = getattr(config, "encoder", config)  # of a network that has one inside
    if config.model_type == "t5":
        return T5_TOKENS
    longest = int(config.max_position_embeddings)
    return longest - 2 if config.model_type in COUNTED_FROM_PADDING else longest
