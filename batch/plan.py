"""What a job will do, fixed before it does anything: inputs, model, shard size. Committed once as `_PLAN.json`.

A rerun must have the same plan, or its shards would mix two jobs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from batch.job import Job
from records.rows import BadRow, Row, read_file
from records.storage import StoredObject, join, list_objects, put_if_absent, read_bytes
from runtime.manifest import Manifest

PLAN_FILE = "_PLAN.json"
# Settings that change neither the rows' results nor how they are cut may differ between runs of one job.
FREE = {"output", "max_error_share", "workers", "model"}


class PlanDiffers(Exception):
    """The output belongs to another job."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Input(_Record):
    """One input file as it was when the job was planned."""

    url: str
    size_bytes: int
    version: str


class Plan(_Record):
    """`_PLAN.json`."""

    schema_version: Literal[1] = 1
    inputs: tuple[Input, ...]
    model_digest: str
    settings: dict[str, Any]

    @property
    def digest(self) -> str:
        """sha256 over everything above."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """The file's content; equal plans give equal bytes."""
        return (json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n").encode()


@dataclass(frozen=True, slots=True)
class Shard:
    """`shard_rows` consecutive records of one file; `name` is unique in the job and the same in every run."""

    file: int
    number: int
    rows: Sequence[Row | BadRow]

    @property
    def name(self) -> str:
        return f"part-{self.file:05d}-{self.number:05d}"


def make_plan(job: Job, manifest: Manifest) -> Plan:
    """List the inputs and fix the plan. Raises StorageError."""
    inputs = tuple(_input(entry) for entry in list_objects(job.input))
    settings = job.model_dump(mode="json", exclude=FREE)
    return Plan(inputs=inputs, model_digest=manifest.digest, settings=settings)


def commit_plan(plan: Plan, output: str) -> bool:
    """Write the plan, or find the same one there. Returns whether this is the job's first run.

    Raises PlanDiffers naming what changed, StorageError.
    """
    url = join(output, PLAN_FILE)
    if put_if_absent(url, plan.to_bytes()):
        return True
    there = json.loads(read_bytes(url))
    ours = json.loads(plan.to_bytes())
    if there == ours:
        return False
    parts = {**{key: (there.get(key), ours[key]) for key in ours if key != "settings"}}
    old_settings, new_settings = there.get("settings", {}), ours["settings"]
    parts |= {key: (old_settings.get(key), new_settings.get(key)) for key in {*old_settings, *new_settings}}
    changed = sorted(key for key, (old, new) in parts.items() if old != new)
    raise PlanDiffers(
        f"{output} belongs to another job: {', '.join(changed)} differ from its {PLAN_FILE}. "
        "Choose another output, or restore what it was started with."
    )


def cut(job: Job, plan: Plan) -> Iterator[Shard]:
    """Read the inputs once, in order, and cut them into shards. Raises StorageError, RowsError."""
    for number, source in enumerate(plan.inputs):
        count, rows = 0, []
        for row in read_file(source.url, encoding=job.encoding):
            rows.append(row)
            if len(rows) == job.shard_rows:
                yield Shard(number, count, rows)
                count, rows = count + 1, []
        if rows:
            yield Shard(number, count, rows)


def _input(entry: StoredObject) -> Input:
    return Input(url=entry.url, size_bytes=entry.size_bytes, version=entry.version)
