"""Encoders with fewer attention heads than their width has room for, each layer its own number of them.

transformers computes the size of a head from the width and the number of heads, so BERT's own configuration cannot say
"7 heads of 32 in a width of 384". These can: `layer_heads` is the number of heads of each layer, and
`num_attention_heads` stays what the width was once divided by. All else is the family's own, names of weights included.
transformers' Auto classes know them after `models.registry.register_networks()`.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    DistilBertModel,
    ElectraConfig,
    ElectraForSequenceClassification,
    ElectraModel,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

from models.layers import layers_of, layout_of


class NarrowBertConfig(BertConfig):
    model_type = "narrow-bert"
    layer_heads: list[int] | None = None


class NarrowRobertaConfig(RobertaConfig):
    model_type = "narrow-roberta"
    layer_heads: list[int] | None = None


class NarrowXLMRobertaConfig(XLMRobertaConfig):
    model_type = "narrow-xlm-roberta"
    layer_heads: list[int] | None = None


class NarrowElectraConfig(ElectraConfig):
    model_type = "narrow-electra"
    layer_heads: list[int] | None = None


class NarrowDistilBertConfig(DistilBertConfig):
    model_type = "narrow-distilbert"
    layer_heads: list[int] | None = None


class _Narrow(nn.Module):
    """The family's own network, whose attention is then replaced by a narrower one."""

    def __init__(self, config: Any, *given: Any, **named: Any) -> None:
        super().__init__(config, *given, **named)
        size = config.hidden_size // config.num_attention_heads
        layout = layout_of(self)
        for layer, heads in zip(layers_of(self), config.layer_heads, strict=True):
            for path in layout.projections:
                layer.set_submodule(path, nn.Linear(config.hidden_size, heads * size))
            layer.set_submodule(layout.attended, nn.Linear(heads * size, config.hidden_size))


class NarrowBertModel(_Narrow, BertModel):
    config_class = NarrowBertConfig


class NarrowBertForSequenceClassification(_Narrow, BertForSequenceClassification):
    config_class = NarrowBertConfig


class NarrowRobertaModel(_Narrow, RobertaModel):
    config_class = NarrowRobertaConfig


class NarrowRobertaForSequenceClassification(_Narrow, RobertaForSequenceClassification):
    config_class = NarrowRobertaConfig


class NarrowXLMRobertaModel(_Narrow, XLMRobertaModel):
    config_class = NarrowXLMRobertaConfig


class NarrowXLMRobertaForSequenceClassification(_Narrow, XLMRobertaForSequenceClassification):
    config_class = NarrowXLMRobertaConfig


class NarrowElectraModel(_Narrow, ElectraModel):
    config_class = NarrowElectraConfig


class NarrowElectraForSequenceClassification(_Narrow, ElectraForSequenceClassification):
    config_class = NarrowElectraConfig


class NarrowDistilBertModel(_Narrow, DistilBertModel):
    config_class = NarrowDistilBertConfig


class NarrowDistilBertForSequenceClassification(_Narrow, DistilBertForSequenceClassification):
    config_class = NarrowDistilBertConfig


ENCODERS: tuple[type[PreTrainedModel], ...] = (
    NarrowBertModel,
    NarrowRobertaModel,
    NarrowXLMRobertaModel,
    NarrowElectraModel,
    NarrowDistilBertModel,
)
CLASSIFIERS: tuple[type[PreTrainedModel], ...] = (
    NarrowBertForSequenceClassification,
    NarrowRobertaForSequenceClassification,
    NarrowXLMRobertaForSequenceClassification,
    NarrowElectraForSequenceClassification,
    NarrowDistilBertForSequenceClassification,
)


def narrow_class(network: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The class for networks such as `network` with fewer heads. Raises ValueError: there is none."""
    for narrow in (*ENCODERS, *CLASSIFIERS):
        if network is narrow or narrow.__mro__[2] is network:
            return narrow
    families = ", ".join(encoder.__mro__[2].__name__.removesuffix("Model") for encoder in ENCODERS)
    raise ValueError(f"{network.__name__} cannot have fewer heads than its width has room for; {families} can.")


def narrow_config(config: PretrainedConfig, kind: type[PreTrainedModel], layer_heads: list[int]) -> PretrainedConfig:
    """`config` as one of `kind` with so many heads in each layer."""
    given = config.to_dict()
    for name in ("model_type", "architectures", "transformers_version", "layer_heads"):
        given.pop(name, None)
    narrowed: PretrainedConfig = kind.config_class(**given, layer_heads=layer_heads)
    return narrowed
