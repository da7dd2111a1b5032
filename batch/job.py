"""JOB.yaml: what to read, which model, where to write. Unknown keys are refused.

The comments beside the fields are their reference; docs/batch.md holds the same table, and a test compares the two.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from runtime.manifest import Kind


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Columns(_Section):
    """Which columns of the input mean what."""

    id: str | None = Field(default=None, min_length=1)  # None: the column `id` of rows that have it, else FILE#LINE
    text_a: str = "text_a"
    text_b: str = "text_b"
    prompt: str = "prompt"


class Generate(_Section):
    """How a generation model continues each prompt."""

    max_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=0.0, ge=0, le=2)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = Field(
        default=7, ge=0, lt=2**63
    )  # every row draws from its own generator, seeded with this and its place
    stop: tuple[str, ...] = Field(default=(), max_length=4)


class Job(_Section):
    """One batch job. Running it again goes on where it stopped; running it with other inputs is refused."""

    input: str = Field(min_length=1)
    output: str = Field(min_length=1)
    model: str = Field(min_length=1)  # NAME, NAME:STAGE or NAME:VERSION in the model store, or an artifact folder
    columns: Columns = Columns()
    input_format: Literal["csv", "tsv", "jsonl", "parquet"] | None = None  # None: by each file's ending
    encoding: str = "utf-8-sig"  # of text files; reads UTF-8 with and without BOM
    format: Literal["jsonl", "csv", "parquet"] = "jsonl"  # of the output
    shard_rows: int = Field(default=1000, ge=1, le=1_000_000)  # rows scored and committed at once
    max_error_share: float = Field(default=0.01, ge=0, le=1)  # more bad rows than this: no _SUCCESS
    truncate: bool = True  # matching, embedding: cut what is too long; false: such a row is a bad row
    threshold: float | None = Field(default=None, ge=0, le=1)  # matching, embedding: None is the artifact's own
    generate: Generate = Generate()
    workers: int | None = Field(default=None, ge=1, le=256)  # processes, one thread each; None: one a core

    @model_validator(mode="after")
    def _apart(self) -> Job:
        one, other = (f"{url.rstrip('/')}/" for url in (self.input, self.output))
        if one.startswith(other) or other.startswith(one):
            raise ValueError(
                f"output {self.output!r} and input {self.input!r} overlap, so that a rerun would read its own results; "
                "choose folders or prefixes beside each other"
            )
        return self

    def misplaced(self, kind: Kind) -> list[str]:
        """Settings that were made and mean nothing for a model of this kind."""
        foreign = {"truncate", "threshold"} if kind == "generation" else {"generate"}
        columns = {"text_a", "text_b"} if kind == "generation" else {"prompt"}
        made = [name for name in sorted(foreign) if name in self.model_fields_set]
        return made + [f"columns.{name}" for name in sorted(columns) if name in self.columns.model_fields_set]
