"""The pair classifier: any encoder, a layer over its hidden states, and the two texts compared as vectors.

    … a separator b …  (B, T) -> encoder (B, T, E) -> layer (B, T, F) -> of each text its mean and its maximum: u, v
    (B, 2F) -> [u, v, |u - v|, u * v] (B, 8F) -> dropout -> linear (B, C)

The comparison is InferSent's (Conneau et al., arXiv:1705.02364); heads differ in the layer: a BiLSTM, a TextCNN, or
none. Which token belongs to which text is seen from the separator, because not every encoder has token types. Not
here: the tokeniser's side (runtime/text.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.configuration_utils import SubConfigSpec
from transformers.modeling_outputs import SequenceClassifierOutput

from models.registry import builder
from models.sequence_encoder import init_as_torch_does


def _of_encoder(name: str, missing: Any) -> Any:
    """What is true of the encoder is true of the whole."""
    return property(
        lambda config: getattr(config.encoder, name, missing),
        lambda config, value: setattr(config.encoder, name, value),
    )


class PairClassifierConfig(PretrainedConfig):
    """`encoder`: its own configuration. `frozen`: it stays in evaluation mode and gets no gradient.

    `separator_token_id` stands between the two texts; `special_token_ids` belong to neither of them.
    """

    model_type = "pair-classifier"
    sub_configs_defaults: ClassVar = {"encoder": SubConfigSpec(config_class=AutoConfig, model_type="bert")}

    encoder: PretrainedConfig | dict[str, Any] | None = None
    head: str = "interaction"
    head_hidden: int = 128
    head_dropout: float = 0.1
    frozen: bool = False
    separator_token_id: int = 2
    special_token_ids: list[int] | None = None

    hidden_size = _of_encoder("hidden_size", None)
    vocab_size = _of_encoder("vocab_size", None)
    pad_token_id = _of_encoder("pad_token_id", None)
    type_vocab_size = _of_encoder("type_vocab_size", 0)
    num_hidden_layers = _of_encoder("num_hidden_layers", 0)
    num_attention_heads = _of_encoder("num_attention_heads", 0)
    max_position_embeddings = _of_encoder("max_position_embeddings", 0)

    @property
    def description(self) -> str:
        """The encoder's type and the head: bert+cnn."""
        return f"{self.encoder.model_type}+{self.head}"


@dataclass(frozen=True, slots=True)
class Frame:
    """What a tokenizer puts around a pair: all of it, and which of it comes first after the first text."""

    separator: int
    special: tuple[int, ...]


class NoLayer(nn.Module):
    """The encoder's hidden states as they are."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.out = width

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, in) -> the same."""
        return x


class PairClassifierForSequenceClassification(PreTrainedModel):
    """See the module. A layer is what models/sequence_encoder.py says, and `layer.out` is F."""

    config_class = PairClassifierConfig
    config: PairClassifierConfig
    base_model_prefix = "encoder"
    _supports_sdpa = True

    def __init__(self, config: PairClassifierConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.encoder = encoder if encoder is not None else AutoModel.from_config(config.encoder)
        # One configuration, so that a change of either is seen by both; as transformers' EncoderDecoderModel does it.
        self.config.encoder._attn_implementation = self.encoder.config._attn_implementation
        self.encoder.config = self.config.encoder
        if getattr(self.encoder, "pooler", None) is not None:
            self.encoder.pooler = None  # BERT's, of its first token: not read here
        self.layer = builder("pair head", config.head)(config.hidden_size, config.head_hidden)
        self.dropout = nn.Dropout(config.head_dropout)
        self.classifier = nn.Linear(8 * self.layer.out, config.num_labels)
        self.encoder.requires_grad_(not config.frozen)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        init_as_torch_does(module)

    def train(self, mode: bool = True) -> PairClassifierForSequenceClassification:
        """A frozen encoder has no dropout either: its hidden states do not change."""
        super().train(mode)
        if self.config.frozen:
            self.encoder.eval()
        return self

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """What the encoder makes of a batch: (B, T) each -> (B, T, E)."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        hidden: Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **types).last_hidden_state
        return hidden

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """(B, T) each, padding behind the tokens -> logits (B, C); `hidden` (B, T, E): as `hidden_states` gave it."""
        if hidden is None:
            hidden = self.hidden_states(input_ids, attention_mask, token_type_ids)
        over = self.layer(hidden, attention_mask)  # (B, T, F)
        u, v = (_pooled(over, mask) for mask in self._texts(input_ids, attention_mask))
        compared = torch.cat([u, v, (u - v).abs(), u * v], dim=-1)
        logits = self.classifier(self.dropout(compared))
        loss = None if labels is None else functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _texts(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Which tokens are the first text's, and which the second's: (B, T) of booleans each."""
        separators = (input_ids == self.config.separator_token_id) & (attention_mask > 0)
        behind = separators.to(torch.int64).cumsum(1) > 0
        inner = attention_mask > 0
        for special in self.config.special_token_ids or ():
            inner = inner & (input_ids != special)
        return inner & ~behind, inner & behind


def _pooled(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean and maximum over the tokens that `mask` (B, T) marks: (B, T, F) -> (B, 2F); zeros where it marks none."""
    marked = mask.unsqueeze(-1)
    count = marked.sum(1).to(hidden.dtype)  # (B, 1)
    mean = hidden.masked_fill(~marked, 0).sum(1) / count.clamp(min=1)
    highest = hidden.masked_fill(~marked, torch.finfo(hidden.dtype).min).amax(1)
    return torch.cat([mean, torch.where(count > 0, highest, 0)], dim=-1)


def build(
    encoder: PreTrainedModel,
    *,
    head: str,
    head_hidden: int,
    frame: Frame,
    labels: Sequence[str],
    dropout: float,
    frozen: bool = False,
) -> PairClassifierForSequenceClassification:
    """A pair classifier on `encoder`, with a new head of len(labels) classes, drawn from torch's random state."""
    return PairClassifierForSequenceClassification(
        PairClassifierConfig(
            encoder=encoder.config.to_dict(),
            head=head,
            head_hidden=head_hidden,
            head_dropout=dropout,
            frozen=frozen,
            separator_token_id=frame.separator,
            special_token_ids=sorted(frame.special),
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
            problem_type="single_label_classification",
        ),
        encoder,
    )
