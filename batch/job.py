"""JOB.yaml: what to read, which model, where to write. Unknown keys are refused."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Columns(_Section):
    """Which columns of the input mean what."""

    id: str | None = None  # None: ids are made from file and line
    text_a: str = "text_a"
    text_b: str = "text_b"
    prompt: str = "prompt"


class Generate(_Section):
    """How a generation model continues each prompt."""

    max_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=0.0, ge=0, le=2)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = Field(default=7, ge=0)  # every row draws from its own generator, seeded with this and its place
    stop: tuple[str, ...] = ()


class Job(_Section):
    """One batch job. Running it again goes on where it stopped; running it with other inputs is refused."""

    input: str  # a file, a folder or an s3:// prefix of CSV, TSV, JSONL or Parquet
    output: str  # a folder or an s3:// prefix
    model: str  # NAME, NAME:STAGE or NAME:VERSION in the model store, or an artifact folder
    columns: Columns = Columns()
    encoding: str = "utf-8-sig"  # of text files; reads UTF-8 with and without BOM
    format: Literal["jsonl", "csv", "parquet"] = "jsonl"  # of the output
    shard_rows: int = Field(default=1000, ge=1, le=1_000_000)  # rows scored and committed at once
    max_error_share: float = Field(default=0.01, ge=0, le=1)  # more bad rows than this: no _SUCCESS
    truncate: bool = True  # matching: cut what is too long; false: such a row is a bad row
    threshold: float | None = Field(default=None, ge=0, le=1)  # matching: None is the artifact's own
    generate: Generate = Generate()
    workers: int | None = Field(default=None, ge=1)  # processes; None: one a core for matching, one for generation

    @model_validator(mode="after")
    def _apart(self) -> Job:
        one, other = (f"{url.rstrip('/')}/" for url in (self.input, self.output))
        if one.startswith(other) or other.startswith(one):
            raise ValueError(f"output {self.output!r} and input {self.input!r} overlap; a rerun would read its results")
        return self
