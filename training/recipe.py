"""The recipe: one YAML file that says everything about a model, from data to the name it is published under.

Every command of this room takes the same recipe, so `train`, `compress`, `evaluate` and `publish` agree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Columns(_Section):
    """Which columns of the files mean what."""

    text_a: str = "text_a"
    text_b: str = "text_b"
    label: str = "label"


class PairData(_Section):
    """Labelled pairs: a file, a folder or an `s3://` prefix for each split (CSV, TSV, JSONL, Parquet)."""

    train: str
    valid: str
    test: str
    columns: Columns = Columns()
    encoding: str = "utf-8-sig"  # reads UTF-8 with and without BOM
    labels: tuple[str, ...] = ("0", "1")  # as they stand in the data; the order gives the class index
    positive: str = "1"
    bad_rows: Literal["fail", "reject"] = "fail"  # reject: to RUN/rejects.jsonl, with the reason
    max_reject_share: float = Field(default=0.01, ge=0, le=1)
    duplicates: Literal["keep", "drop", "fail"] = "keep"  # reported in every case
    leakage: Literal["report", "drop", "fail"] = "report"  # pairs of valid or test that stand in train


class TextData(_Section):
    """Plain text for a language model: files or `s3://` keys. `valid` and `test`, left out, are cut off the end."""

    train: str
    valid: str | None = None
    test: str | None = None
    encoding: str = "utf-8-sig"
    valid_share: float = Field(default=0.05, gt=0, lt=0.5)
    test_share: float = Field(default=0.05, gt=0, lt=0.5)


class CrossEncoder(_Section):
    """Both texts in one sequence through an encoder (BERT, RoBERTa, MiniLM, …) and a linear head."""

    kind: Literal["matching"] = "matching"
    architecture: Literal["cross-encoder"] = "cross-encoder"
    base: str = "packaged:minilm"  # packaged:minilm | a local folder | a hub id
    revision: str | None = None  # pins a hub id: a commit hash or tag
    max_tokens: int = Field(default=128, gt=3)
    dropout: float = Field(default=0.1, ge=0, lt=1)  # before the prediction layer


class CausalLM(_Section):
    """A GPT-style decoder trained from its own configuration, with a byte-level BPE tokenizer made from the data."""

    kind: Literal["generation"] = "generation"
    architecture: Literal["gpt2", "llama"] = "gpt2"
    base: str | None = None  # continue from a folder or hub id instead of from scratch
    revision: str | None = None
    vocab_size: int = Field(default=1024, ge=257)
    max_tokens: int = Field(default=256, gt=1)
    layers: int = Field(default=4, gt=0)
    hidden: int = Field(default=128, gt=0)
    heads: int = Field(default=4, gt=0)
    kv_heads: int | None = None  # llama: None is as many as `heads`
    dropout: float = Field(default=0.1, ge=0, lt=1)


class Train(_Section):
    """AdamW with a cosine schedule and warm-up. The defaults are the recipe for a full fine-tune."""

    learning_rate: float = Field(default=5e-5, gt=0)
    steps: int = Field(default=10_000, gt=0)
    warmup_steps: int = Field(default=500, ge=0)
    batch_size: int = Field(default=32, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    gradient_clip: float = Field(default=1.0, gt=0)
    validate_every: int = Field(default=500, gt=0)  # steps between validations and checkpoints
    freeze_embeddings: bool = False


class Compress(_Section):
    """Which artifacts to make, and how far each may be from its parent."""

    precisions: tuple[Literal["fp32", "int8"], ...] = ("fp32", "int8")
    fp32_tolerance: float = Field(default=1e-3, gt=0)  # largest |difference| of scores, or of log-probabilities
    int8_tolerance: float = Field(default=0.05, gt=0)  # mean |difference| of scores, or relative change of perplexity


class Recipe(_Section):
    """One model. `name` is both the run folder below `runs/` and the name in the model store."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    seed: int = 7
    runs: Path = Path("runs")
    model: Annotated[CrossEncoder | CausalLM, Field(discriminator="kind")]
    data: PairData | TextData
    train: Train = Train()
    compress: Compress = Compress()

    @property
    def run(self) -> Path:
        """Where everything of this recipe goes: checkpoint/, fp32/, int8/, trainer/, *.json."""
        return self.runs / self.name
