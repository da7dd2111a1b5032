"""The recipe's `model` section: what is trained, one class a kind. Imports no torch."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from models import registry
from training.section import Section

PACKAGED = "packaged:minilm"


class NewEncoder(Section):
    """An encoder that starts from nothing, with a BPE tokenizer made from the texts of train."""

    architecture: str = "bilstm"  # one of models/registry.py
    vocab_size: int = Field(default=4096, ge=300)  # of the tokenizer; fewer where the texts have fewer pairs to merge
    embedding: int = Field(default=128, gt=0)  # width of a token's embedding; most of the weights are there
    hidden: int = Field(default=128, gt=0)  # width of the output, an even number
    layers: int = Field(default=1, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @field_validator("architecture")
    @classmethod
    def _known(cls, value: str) -> str:
        return registry.check("encoder", value)

    @field_validator("hidden")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError(f"hidden {value} must be even: two directions, or two widths of windows, share it")
        return value


class EncoderSection(Section):
    """What all models on an encoder have: where the encoder comes from, and how long a text may be."""

    base: str | None = PACKAGED  # packaged:minilm | a local folder | a hub id; none where `encoder` is given
    revision: str | None = None  # pins a hub id: a commit hash or tag
    encoder: NewEncoder | None = None  # instead of a base
    max_tokens: int = Field(default=128, gt=3)
    frozen: bool = False  # leave the encoder as the base has it and train the head alone

    @model_validator(mode="before")
    @classmethod
    def _new_without_base(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and raw.get("encoder") is not None:
            return {"base": None, **raw}
        return raw

    @model_validator(mode="after")
    def _one_source(self) -> EncoderSection:
        if (self.base is None) == (self.encoder is None):
            raise ValueError("give either base, an encoder with weights, or encoder, the shape of a new one")
        if self.frozen and self.encoder:
            raise ValueError("frozen: a new encoder must be trained; give a base")
        return self


class PairModel(EncoderSection):
    """Both texts in one sequence through an encoder: BERT, RoBERTa, MiniLM, ELECTRA, or a new one."""

    kind: Literal["matching"] = "matching"
    architecture: str = "cross-encoder"  # one of models/registry.py
    head: str | None = None  # of a pair-classifier; one of models/registry.py
    head_hidden: int = Field(default=128, gt=0)  # width of a bilstm or cnn head, an even number
    dropout: float = Field(default=0.1, ge=0, lt=1)  # before the prediction layer

    @field_validator("architecture")
    @classmethod
    def _known(cls, value: str) -> str:
        return registry.check("matching", value)

    @field_validator("head")
    @classmethod
    def _known_head(cls, value: str | None) -> str | None:
        return value if value is None else registry.check("pair head", value)

    @model_validator(mode="after")
    def _head_fits(self) -> PairModel:
        if (self.architecture == "pair-classifier") != (self.head is not None):
            raise ValueError("head and architecture pair-classifier belong together: give both or neither")
        if self.head_hidden % 2:
            raise ValueError(f"head_hidden {self.head_hidden} must be even")
        if self.architecture == "cross-encoder" and (self.encoder or self.frozen):
            given = "encoder" if self.encoder else "frozen"
            raise ValueError(f"{given}: a cross-encoder is a base, trained whole; take architecture pair-classifier")
        return self


class BiEncoder(EncoderSection):
    """A text through an encoder and a pooling: a vector. A pair is scored by the cosine of its two."""

    kind: Literal["embedding"] = "embedding"
    architecture: str = "bi-encoder"  # one of models/registry.py
    pooling: Literal["mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"] = "mean"
    dropout: float | None = Field(default=None, ge=0, lt=1)  # everywhere in the encoder; None: as the encoder has it
    loss: Literal["proxy", "contrastive"] = "proxy"  # a trained vector a group, or the texts of a batch
    temperature: float = Field(default=0.05, gt=0)  # what the loss divides cosines by

    @field_validator("architecture")
    @classmethod
    def _known(cls, value: str) -> str:
        return registry.check("embedding", value)

    @model_validator(mode="after")
    def _something_to_train(self) -> BiEncoder:
        if self.frozen:
            raise ValueError("frozen: without its encoder a bi-encoder has nothing to train")
        return self


class EncoderDecoder(Section):
    """A network that reads a source and writes a target, with a byte-level BPE tokenizer made from both."""

    kind: Literal["seq2seq"] = "seq2seq"
    architecture: str = "bart"  # one of models/registry.py
    base: str | None = None  # continue from a local folder or hub id, with its tokenizer, instead of from scratch
    revision: str | None = None  # pins a hub id
    vocab_size: int = Field(default=1024, ge=258)
    max_tokens: int = Field(default=128, gt=1)  # of a source, and of a target
    layers: int = Field(default=3, gt=0)  # of the encoder, and of the decoder
    hidden: int = Field(default=128, gt=0)
    heads: int = Field(default=4, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @field_validator("architecture")
    @classmethod
    def _known(cls, value: str) -> str:
        return registry.check("seq2seq", value)

    @model_validator(mode="after")
    def _base_brings_its_shape(self) -> EncoderDecoder:
        return check_base(self, {"architecture", "vocab_size", "layers", "hidden", "heads", "dropout"})


class CausalLM(Section):
    """A GPT-style decoder trained from its own configuration, with a byte-level BPE tokenizer made from the data."""

    kind: Literal["generation"] = "generation"
    architecture: str = "gpt2"  # one of models/registry.py
    base: str | None = None  # continue from a local folder or hub id, with its tokenizer, instead of from scratch
    revision: str | None = None  # pins a hub id
    vocab_size: int = Field(default=1024, ge=257)
    max_tokens: int = Field(default=256, gt=1)
    layers: int = Field(default=4, gt=0)
    hidden: int = Field(default=128, gt=0)
    heads: int = Field(default=4, gt=0)
    kv_heads: int | None = Field(default=None, gt=0)  # llama: fewer share their cache; None is as many as `heads`
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @field_validator("architecture")
    @classmethod
    def _known(cls, value: str) -> str:
        return registry.check("generation", value)

    @model_validator(mode="after")
    def _base_brings_its_shape(self) -> CausalLM:
        return check_base(self, {"architecture", "vocab_size", "layers", "hidden", "heads", "kv_heads", "dropout"})


Generative = TypeVar("Generative", "CausalLM", "EncoderDecoder")


def check_base(model: Generative, shape: set[str]) -> Generative:
    """The model, unless it has a base and `shape` keys besides, which come with that. Raises ValueError."""
    # A record of a run has them all, as they are by default.
    fields = type(model).model_fields
    given = {name for name in model.model_fields_set & shape if getattr(model, name) != fields[name].default}
    if model.base and given:
        raise ValueError(f"{', '.join(sorted(given))}: these come with the base {model.base!r}; remove them")
    return model
