"""Encoders that start from nothing: embeddings, then layers that look at a token's neighbours.

    ids (B, T) -> embeddings (B, T, W) -> layers -> last_hidden_state (B, T, E)

A kind of layer is a file of its own (models/bilstm.py, models/textcnn.py); here is what they share. transformers' Auto
classes know them after `models.registry.register_networks()`. No positions: the layers see by themselves what is near.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


class SequenceConfig(PretrainedConfig):
    """The shape: `embedding_size` W, `hidden_size` E, an even number, `max_position_embeddings` the longest T."""

    vocab_size: int = 4096
    embedding_size: int = 128
    hidden_size: int = 128
    num_hidden_layers: int = 1
    hidden_dropout_prob: float = 0.1
    max_position_embeddings: int = 128
    pad_token_id: int | None = 0
    initializer_range: float = 0.1  # of the embeddings


class SequenceEncoder(PreTrainedModel):
    """An encoder of `layer`s; the first takes W channels to E.

    A layer is a module of (width in, width out) with `out`, its width, and forward (x (B, T, in), mask (B, T)) ->
    (B, T, out), zeros at padding.
    """

    layer: ClassVar[type[nn.Module]]
    config: SequenceConfig
    base_model_prefix = "encoder"

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size, config.pad_token_id)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        widths = [config.embedding_size] + [config.hidden_size] * (config.num_hidden_layers - 1)
        self.layers = nn.ModuleList(type(self).layer(width, config.hidden_size) for width in widths)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            super()._init_weights(module)
        else:
            init_as_torch_does(module)

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings (V, W)."""
        return self.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Take other word embeddings."""
        self.embeddings = value

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> BaseModelOutput:
        """(B, T) each, padding behind the tokens -> last_hidden_state (B, T, E), zeros at padding."""
        hidden = self.embeddings(input_ids) * attention_mask.unsqueeze(-1)
        for layer in self.layers:
            hidden = layer(self.dropout(hidden), attention_mask)
        return BaseModelOutput(last_hidden_state=hidden)


def init_as_torch_does(module: nn.Module) -> None:
    """New weights in proportion to a layer's width: transformers' own 0.02 suits deep networks with layer norms, and
    leaves one of a layer or two almost without a signal."""
    if isinstance(module, nn.Linear | nn.LSTM):
        module.reset_parameters()
