"""The recipe: one YAML file that says everything about a model, from data to the name it is published under.

Every command of this room takes the same recipe, so `train`, `compress`, `evaluate` and `publish` agree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from training.compression.settings import Compress
from training.model_section import BiEncoder, CausalLM, EncoderDecoder, PairModel
from training.section import Section
from training.tuning.settings import Tune

KINDS = ("matching", "embedding", "generation", "seq2seq")


def _label(value: Any) -> Any:
    """YAML reads an unquoted 0 as a number, and an unquoted yes or no as a boolean, which it should not guess back."""
    if isinstance(value, bool):
        raise ValueError("an unquoted yes, no, true or false is a boolean in YAML; quote the label")
    return str(value) if isinstance(value, int) else value


Label = Annotated[str, BeforeValidator(_label)]


Records = Literal["named", "values", "layout"]


class Columns(Section):
    """Which columns of the files mean what; `left_*` is a record of all columns that begin with `left_`."""

    text_a: str = "text_a"
    text_b: str = "text_b"
    label: str = "label"


class GroupColumns(Columns):
    """And those of the groups' file."""

    text: str = "text"
    group: str = "group"


class ExampleColumns(Section):
    """Which columns of the files mean what; `source_*` is a record of all columns that begin with `source_`."""

    source: str = "source"
    target: str = "target"


class RowData(Section):
    """Rows of files: a file, a folder or an `s3://` prefix for each split (CSV, TSV, JSONL, Parquet, Ditto's .txt)."""

    train: str
    valid: str
    test: str
    columns: Columns | ExampleColumns
    format: Literal["csv", "tsv", "jsonl", "parquet", "ditto"] | None = None  # None: the ending tells; .txt is ditto
    records: Records = "named"  # how a column that holds a record becomes text
    encoding: str = "utf-8-sig"  # reads UTF-8 with and without BOM
    bad_rows: Literal["fail", "reject"] = "fail"  # reject: to RUN/rejects.jsonl, with the reason
    max_reject_share: float = Field(default=0.01, ge=0, le=1)
    duplicates: Literal["keep", "drop", "fail"] = "keep"  # reported in every case; drop keeps the first
    leakage: Literal["report", "drop", "fail"] = "report"  # rows that stand in two splits; drop: out of train


class PairData(RowData):
    """Labelled pairs."""

    columns: Columns = Columns()
    labels: tuple[Label, ...] = Field(default=("0", "1"), min_length=2)  # as in the data; the order gives the index
    positive: Label = "1"  # the label that means "a match": its probability is the score

    @model_validator(mode="after")
    def _labels_hold(self) -> PairData:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels {', '.join(self.labels)}: each must differ")
        if self.positive not in self.labels:
            raise ValueError(f"positive {self.positive!r} is none of the labels {', '.join(self.labels)}")
        return self


class MatchingData(PairData):
    """Labelled pairs that a cross-encoder learns as they are."""

    kind: Literal["matching"] = "matching"  # follows model.kind


class EmbeddingData(PairData):
    """Labelled pairs that judge a bi-encoder, and the groups of texts that it learns from."""

    kind: Literal["embedding"] = "embedding"  # follows model.kind
    columns: GroupColumns = GroupColumns()
    groups: str | None = None  # file, folder or s3:// prefix of texts with a group; None: what train's positives join


class ExampleData(RowData):
    """Sources, and the target that each of them is to become. Two rows with one source are duplicates, or a leak."""

    kind: Literal["seq2seq"] = "seq2seq"  # follows model.kind
    columns: ExampleColumns = ExampleColumns()


class TextData(Section):
    """Plain text for a language model: a file, a folder or an `s3://` prefix for each split; a file is a document.

    `valid` and `test`, left out, are cut off the end of `train`.
    """

    kind: Literal["generation"] = "generation"  # follows model.kind
    train: str
    valid: str | None = None
    test: str | None = None
    encoding: str = "utf-8-sig"
    valid_share: float = Field(default=0.05, gt=0, lt=0.5)
    test_share: float = Field(default=0.05, gt=0, lt=0.5)


GPU_FACTOR = 4  # the batch on a CUDA GPU, which steps of a CPU's size leave idle, where a recipe does not say
SCHEDULE = {"steps", "warmup_steps", "validate_every"}  # of Train, counted in steps


class Train(Section):
    """AdamW with a cosine schedule and warm-up. The defaults are the recipe for a full fine-tune."""

    learning_rate: float = Field(default=5e-5, gt=0)
    steps: int = Field(default=10_000, gt=0)
    warmup_steps: int | None = Field(default=None, ge=0)  # None: a twentieth of the steps
    batch_size: int = Field(default=32, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    gradient_clip: float = Field(default=1.0, gt=0)
    validate_every: int = Field(default=500, gt=0)  # steps between validations and checkpoints
    freeze_embeddings: bool = False  # leave the word embeddings of the base as they are: faster, half the memory
    threads: int | None = Field(default=None, gt=0)  # of torch on the CPU; None: as many as it takes by itself
    precision: Literal["fp32", "bf16"] | None = None  # None: bf16 on a CUDA GPU that has it, fp32 elsewhere
    gpu_batch_size: int | None = Field(default=None, gt=0)  # on a CUDA GPU instead of batch_size; None: four times it

    def on_gpu(self) -> Train:
        """The settings for a CUDA GPU: the same rows in fewer, larger steps, of `gpu_batch_size` rows. The learning
        rate grows with the root of the batch, as Adam's noise asks for (Malladi et al., arXiv:2205.10287)."""
        batch_size = self.gpu_batch_size or GPU_FACTOR * self.batch_size
        factor = batch_size / self.batch_size
        steps = max(round(self.steps / factor), 1)
        return Train(
            **self.model_dump(exclude={"gpu_batch_size", "batch_size", "learning_rate"} | SCHEDULE),
            batch_size=batch_size,
            gpu_batch_size=batch_size,  # so that the recorded settings, trained again, stay as they are
            learning_rate=self.learning_rate * factor**0.5,
            steps=steps,
            warmup_steps=min(round(self.warmup / factor), steps - 1),
            validate_every=max(round(self.validate_every / factor), 1),
        )

    @property
    def warmup(self) -> int:
        """Steps until the learning rate is at its peak."""
        return self.steps // 20 if self.warmup_steps is None else self.warmup_steps

    @model_validator(mode="after")
    def _warmup_ends(self) -> Train:
        if self.warmup >= self.steps:
            raise ValueError(f"warmup_steps {self.warmup} must be below steps {self.steps}")
        return self


class Track(Section):
    """Where else the figures of a run go. They are in its folder in any case."""

    mlflow: str | None = Field(default=None, pattern=r"^https?://")  # address of an MLflow tracking server
    experiment: str = "sluice"


class Recipe(Section):
    """One model. `name` is both the run folder below `runs/` and the name in the model store."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    seed: int = 7
    runs: Path = Path("runs")
    model: Annotated[PairModel | BiEncoder | CausalLM | EncoderDecoder, Field(discriminator="kind")]
    data: Annotated[MatchingData | EmbeddingData | TextData | ExampleData, Field(discriminator="kind")]
    train: Train = Train()
    compress: Compress = Compress()
    tune: Tune | None = None
    track: Track = Track()

    @model_validator(mode="before")
    @classmethod
    def _data_follows_model(cls, raw: Any) -> Any:
        if not (isinstance(raw, dict) and isinstance(raw.get("model"), dict) and isinstance(raw.get("data"), dict)):
            return raw
        kind = raw["model"].get("kind")
        if kind not in KINDS:
            raise ValueError(f"model.kind is {kind or 'missing'}; write one of {', '.join(KINDS)}")
        return {**raw, "data": {"kind": kind, **raw["data"]}}

    @model_validator(mode="after")
    def _parts_agree(self) -> Recipe:
        if self.data.kind != self.model.kind:
            raise ValueError(f"data.kind {self.data.kind!r} does not fit model.kind {self.model.kind!r}; leave it out")
        generates = self.model.kind in ("generation", "seq2seq")
        if "fp16" in self.compress.precisions and generates:
            raise ValueError("compress.precisions: fp16 is for encoders; a generation model's cache is fp32")
        if "int4" in self.compress.precisions and not generates:
            raise ValueError("compress.precisions: int4 is for generation; encoders are best in int8")
        if self.train.freeze_embeddings and self.model.base is None:
            raise ValueError("train.freeze_embeddings needs model.base: new embeddings must be trained")
        return self

    @property
    def run(self) -> Path:
        """Where everything of this recipe goes: checkpoint/, fp32/, fp16/, int8/, trainer/, *.json."""
        return self.runs / self.name
