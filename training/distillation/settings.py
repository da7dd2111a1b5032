"""What the student learns from the teacher, and from which texts. Imports no torch."""

from __future__ import annotations

from pydantic import Field, model_validator

from training.section import Section

WEIGHTS = ("outputs", "similarity", "hidden", "attention", "values", "labels")


class Distillation(Section):
    """A weight for each thing to learn; 0 leaves it out. Losses are means, so the weights compare."""

    teacher: str | None = (
        None  # folder of an artifact, torch or onnx; None: the checkpoint that the pipeline began with
    )
    outputs: float = Field(default=1.0, ge=0)  # logits (KL divergence), or a bi-encoder's vectors (cosine)
    temperature: float = Field(default=2.0, gt=0)  # softens both sides' logits
    similarity: float = Field(default=0.0, ge=0)  # bi-encoders: the cosines between the texts of a batch
    hidden: float = Field(default=0.0, ge=0)  # states of the layers that `layer_map` pairs, and of the embeddings
    layer_map: tuple[int, ...] | None = (
        None  # for each layer of the student, the teacher's, from 1; None: evenly spread
    )
    attention: float = Field(default=0.0, ge=0)  # self-attention of the last layers
    values: float = Field(default=0.0, ge=0)  # value relations of the last layers
    relation_heads: int | None = Field(default=None, gt=0)  # for both; None: as many as the teacher's last layer has
    labels: float = Field(default=0.0, ge=0)  # the loss of training without a teacher, on rows that have a label
    unlabelled: str | None = None  # file, folder or s3:// prefix of further texts, or pairs: columns as in `data`
    augment: int = Field(default=0, ge=0)  # seeded variants of each text; of pair models, new pairs for each pair
    drop_words: float = Field(default=0.15, ge=0, lt=1)  # chance of each word, in the variants that lose words

    @model_validator(mode="after")
    def _something_to_learn(self) -> Distillation:
        taught = [name for name in WEIGHTS if name != "labels"]
        if not any(getattr(self, name) for name in taught):
            raise ValueError(f"nothing to learn from the teacher: give one of {', '.join(taught)} a weight")
        if self.layer_map is not None and not self.hidden:
            raise ValueError("layer_map is for hidden states: give hidden a weight, or leave layer_map out")
        return self

    @property
    def looks_inside(self) -> bool:
        """Whether more than the teacher's answers is needed, so that it must be a torch model."""
        return bool(self.hidden or self.attention or self.values)
