"""The step that makes a smaller network to be taught: the source, narrower, or a BiLSTM or TextCNN that starts new."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from runtime.errors import InvalidInput
from runtime.manifest import Format, read_manifest
from training.compression.step import Context, Step
from training.model_section import NewEncoder

SIZES = {"hidden": "hidden_size", "heads": "num_attention_heads", "intermediate": "intermediate_size"}


class Student(Step):
    """A student that knows little or nothing yet: put a distill step after it."""

    consumes: ClassVar[Format] = "torch"
    produces: ClassVar[Format] = "torch"

    step: Literal["student"] = "student"
    hidden: int | None = Field(default=None, gt=0)  # width of the states; None: as the source
    heads: int | None = Field(default=None, gt=0)  # of attention; must divide hidden
    intermediate: int | None = Field(default=None, gt=0)  # width of the feed-forward layers
    encoder: NewEncoder | None = None  # another network; with the source's tokenizer, unless vocab_size is given
    start: Literal["truncated", "random"] = "truncated"  # weights: the source's leading rows and columns, or new ones

    @model_validator(mode="after")
    def _smaller(self) -> Student:
        narrower = [name for name in SIZES if getattr(self, name)]
        if not narrower and self.encoder is None:
            raise ValueError("nothing would change: give hidden, heads or intermediate, or encoder")
        if narrower and self.encoder:
            raise ValueError(f"{', '.join(narrower)}: sizes of the source's own network; put those of encoder below it")
        return self

    def apply(self, source: Path, directory: Path, context: Context) -> dict[str, Any]:
        """See Step."""
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from models import bi_encoder
        from models.registry import register_networks
        from models.surgery import truncate_width

        register_networks()
        torch.manual_seed(context.seed)
        if self.encoder is not None:
            return self._new(self.encoder, source, directory, context)
        sizes = {SIZES[name]: size for name in SIZES if (size := getattr(self, name)) is not None}
        try:
            if read_manifest(source).kind == "embedding":
                whole = bi_encoder.load(source)
                encoder = self._started(truncate_width(whole.encoder, **sizes))
                bi_encoder.save(bi_encoder.with_encoder(whole, encoder), directory)
            else:
                model = AutoModelForSequenceClassification.from_pretrained(source)
                self._started(truncate_width(model, **sizes)).save_pretrained(directory)
        except ValueError as error:
            raise InvalidInput(f"{source}: {error}") from None
        AutoTokenizer.from_pretrained(source).save_pretrained(directory)
        return sizes | {"start": self.start}

    def _new(self, shape: NewEncoder, source: Path, directory: Path, context: Context) -> dict[str, Any]:
        from training.compression.new_student import write_student
        from training.compression.vocabulary import texts_of

        texts = None
        if "vocab_size" in shape.model_fields_set:
            if context.splits is None:
                raise InvalidInput("encoder.vocab_size: a tokenizer needs texts; compress a recipe with data.")
            texts = texts_of(context.splits, "train")
        made = write_student(source, directory, shape, texts, words=self.start == "truncated")
        return {"encoder": shape.architecture, "start": "random" if texts else self.start, **made}

    def _started(self, network: Any) -> Any:
        return network if self.start == "truncated" else type(network)(network.config)
