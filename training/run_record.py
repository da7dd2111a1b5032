"""`train.json` in the run folder: what a training depends on, so that it is resumed only as itself, and how it went."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from runtime.errors import InvalidInput
from training.hardware import Hardware
from training.recipe import PairData, Recipe

RECORD_FILE = "train.json"
# Sections of the recipe that decide about the weights. Of `data` only the rows count (their hashes), not the paths.
DECISIVE = ("seed", "model", "train")
Status = Literal["running", "finished", "pruned", "failed"]  # the last two: trials of a tuning


class Usage(BaseModel):
    """Seconds of `data` (read, checked), `prepare` (base loaded, texts tokenised), `train`, `validate`, `checkpoint`,
    `save` and `evaluate`; they add up. Throughput is over the seconds of `train` alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage_seconds: dict[str, float] = {}
    peak_memory_bytes: int = 0  # resident, of the whole process
    peak_gpu_memory_bytes: int | None = None  # allocated by torch
    rows: int = 0  # trained on, repeats counted
    tokens: int = 0  # in these rows, padding left out
    rows_per_s: float | None = None
    tokens_per_s: float | None = None


class TrainRecord(BaseModel):
    """One training run. `depends_on`: setting, file or data -> what it was; two runs with the same are the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: Literal[1] = 1
    status: Status
    recipe: Recipe
    depends_on: dict[str, Any]
    versions: dict[str, str]
    git_commit: str | None
    started: datetime
    resumed_after_steps: tuple[int, ...] = ()
    seconds: float | None = None  # trained, interrupted runs included
    best: dict[str, Any] = {}  # step, metric and value of the validation that won
    valid: dict[str, float] = {}
    test: dict[str, float] = {}
    unigram_perplexity: float | None = None  # generation, on test: what counting tokens alone would give
    hardware: Hardware | None = None  # of the machine that it ended on
    threads: int | None = None  # of torch
    usage: Usage = Usage()
    artifacts: dict[str, str] = {}  # folder in the run -> digest
    mlflow_run: str | None = None  # its id on the server of track.mlflow


def dependencies(recipe: Recipe, datasets: Mapping[str, str], base_sha256: str | None) -> dict[str, Any]:
    """Everything that decides about the weights, as flat names and JSON values."""
    flat: dict[str, Any] = {}
    dumped = recipe.model_dump(mode="json")
    for name in DECISIVE:
        section = dumped[name]
        flat |= {f"{name}.{key}": each for key, each in section.items()} if name != "seed" else {name: section}
    # Where the base lies does not matter, what it is does.
    if base_sha256 is not None:
        del flat["model.base"], flat["model.revision"]
        flat["weights of model.base"] = base_sha256
    if isinstance(recipe.data, PairData):
        flat |= {"data.labels": list(recipe.data.labels), "data.positive": recipe.data.positive}
    return flat | {f"rows of data.{split}": sha256 for split, sha256 in datasets.items()}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for every dependency that differs."""
    return [
        f"{name}: was {before.get(name, 'not there')}, is {now.get(name, 'not there')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def read_record(run: Path) -> TrainRecord | None:
    """The record in the run folder; None where there is none. Raises InvalidInput for a damaged one."""
    path = run / RECORD_FILE
    try:
        return TrainRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInput(
            f"{path} cannot be read ({'.'.join(map(str, first['loc']))}: {first['msg']}); start over with --fresh."
        ) from None


def write_record(run: Path, record: TrainRecord) -> None:
    """Write the record atomically."""
    temporary = run / f".{RECORD_FILE}"
    temporary.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    temporary.replace(run / RECORD_FILE)
