"""What a job will do, fixed before it does anything: inputs and their rows, model, settings. Committed as `_PLAN.json`.

A rerun must have the same plan, or its shards would mix two jobs. All shards can be told from the plan alone, whoever
works on them.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from batch.errors import CannotStart, PlanDiffers
from batch.job import Job
from batch.progress import Progress
from batch.reading import Item, Reader, Reject, input_root, shard_name
from records.rows import format_of
from records.storage import StoredObject, exists, join, list_objects, put_if_absent, read_bytes
from runtime.manifest import Kind, Manifest

PLAN_FILE = "_PLAN.json"
# Settings that change neither the rows' results nor how they are cut may differ between runs of one job.
FREE = {"output", "max_error_share", "workers", "model"}
SHOWN_DUPLICATES = 10
SHOWN_REJECTS = 5
NOTE_EVERY_ROWS = 10_000


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PlannedFile(_Record):
    """One input file as it was when the job was planned."""

    url: str
    size_bytes: int
    version: str
    rows: int


class PlannedModel(_Record):
    """The artifact, and what of its manifest shows in the results of pairs though it is not in its digest."""

    tag: str
    digest: str
    kind: Kind
    threshold: float | None = None
    labels: tuple[str, str] | None = None


class Plan(_Record):
    """`_PLAN.json`. Holds no time and no machine: equal jobs have equal plans."""

    schema_version: Literal[1] = 1
    files: tuple[PlannedFile, ...]
    model: PlannedModel
    settings: dict[str, Any]
    duplicate_ids: int  # rows whose id another row had before
    duplicates: tuple[str, ...]  # the first of them, with their places

    @property
    def rows(self) -> int:
        """Records of all files, bad ones included."""
        return sum(file.rows for file in self.files)

    @property
    def digest(self) -> str:
        """sha256 of the file."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """The file's content; equal plans give equal bytes."""
        return (json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n").encode()

    def shards(self, place: int) -> dict[str, int]:
        """Name -> rows of each shard of the file at `place`, in order."""
        rows, size = self.files[place].rows, int(self.settings["shard_rows"])
        return {shard_name(place, start // size): min(size, rows - start) for start in range(0, rows, size)}

    def all_shards(self) -> dict[str, int]:
        """Name -> rows of every shard of the job, in order."""
        return {name: rows for place in range(len(self.files)) for name, rows in self.shards(place).items()}


@dataclass(frozen=True, slots=True)
class Survey:
    """What one reading of the input found. `rejects` are the first rows that cannot be used, with their files."""

    files: tuple[PlannedFile, ...]
    usable: int
    rejects: Sequence[tuple[str, Reject]]
    duplicate_ids: int
    duplicates: tuple[str, ...]


def list_inputs(job: Job) -> list[StoredObject]:
    """The input files, in the order of their names. Raises CannotStart, RowsError, StorageError."""
    found = list_objects(job.input)
    if not found:
        raise CannotStart(f"{job.input}: there is nothing there to read.")
    if job.input_format is None:
        for entry in found:
            format_of(entry.url)  # raises RowsError for an unknown ending, before an hour's work
    return found


def survey(reader: Reader, inputs: Sequence[StoredObject], progress: Progress) -> Survey:
    """Read everything once: count rows, find ids that come twice. Raises RowsError for a damaged file, StorageError.

    Holds eight bytes a row.
    """
    files: list[PlannedFile] = []
    rejects: list[tuple[str, Reject]] = []
    usable = 0
    keys = array("Q")
    for entry in inputs:
        progress.note(f"reading {entry.url}")
        rows = 0
        for row in reader.rows(entry.url):
            rows += 1
            if rows % NOTE_EVERY_ROWS == 0:
                progress.note(f"reading {entry.url}: {rows:,} rows")
            if isinstance(row, Item):
                usable += 1
                keys.append(_key(row.id))
            elif len(rejects) < SHOWN_REJECTS:
                rejects.append((entry.url, row))
        files.append(PlannedFile(url=entry.url, size_bytes=entry.size_bytes, version=entry.version, rows=rows))
    twice, counts = np.unique(np.asarray(keys, np.uint64), return_counts=True)
    suspects = {int(key) for key in twice[counts > 1]}
    count, shown = _duplicates(reader, inputs, suspects) if suspects else (0, ())
    return Survey(tuple(files), usable, rejects, count, shown)


def _duplicates(reader: Reader, inputs: Sequence[StoredObject], suspects: set[int]) -> tuple[int, tuple[str, ...]]:
    """How many rows have an id that came before, and the first of them. Keys only point: the ids are compared."""
    first: dict[str, str] = {}
    shown: list[str] = []
    count = 0
    for entry in inputs:
        for row in reader.rows(entry.url):
            if isinstance(row, Item) and _key(row.id) in suspects:
                place = f"{entry.url}:{row.line}"
                if row.id in first:
                    count += 1
                    if len(shown) < SHOWN_DUPLICATES:
                        shown.append(f"{row.id!r} at {first[row.id]} and {place}")
                else:
                    first[row.id] = place
    return count, tuple(shown)


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def make_plan(job: Job, model: PlannedModel, found: Survey) -> Plan:
    """Put the plan together. Raises CannotStart when not one row can be used, which is a wrong mapping of columns."""
    if found.rejects and not found.usable and job.max_error_share < 1:
        file, reject = found.rejects[0]
        raise CannotStart(
            f"none of the {sum(each.rows for each in found.files):,} rows can be used; the first is "
            f"{file}:{reject.line}: {reject.reason}. Say in `columns` which columns hold the texts."
        )
    return Plan(
        files=found.files,
        model=model,
        settings=shaping_settings(job),
        duplicate_ids=found.duplicate_ids,
        duplicates=found.duplicates,
    )


def shaping_settings(job: Job) -> dict[str, Any]:
    """Settings that shape the results; what they leave out may change between runs of a job."""
    return {**job.model_dump(mode="json", exclude=FREE), "input": input_root(job)}


def plan_model(job: Job, tag: str, manifest: Manifest) -> PlannedModel:
    """What of the artifact belongs in the plan. Raises CannotStart: a kind, or a setting, that does not fit."""
    misplaced = job.misplaced(manifest.kind)
    if misplaced:
        raise CannotStart(
            f"{tag} is a model of kind {manifest.kind}, for which {', '.join(misplaced)} mean nothing; remove them."
        )
    if manifest.kind == "generation":
        return PlannedModel(tag=tag, digest=manifest.digest, kind=manifest.kind)
    return PlannedModel(
        tag=tag,
        digest=manifest.digest,
        kind=manifest.kind,
        threshold=manifest.decision_threshold if job.threshold is None else job.threshold,
        labels=manifest.match_labels,
    )


def read_plan(output: str) -> Plan | None:
    """The plan of the job that the output belongs to; None where there is none. Raises CannotStart, StorageError."""
    url = join(output, PLAN_FILE)
    if not exists(url):
        return None
    try:
        return Plan.model_validate_json(read_bytes(url))
    except ValidationError as error:
        raise CannotStart(
            f"{url} is no plan of this version: {error.errors()[0]['msg']}. Use another output."
        ) from None


def commit_plan(plan: Plan, output: str) -> Plan:
    """Write the plan, or find the one that another run wrote just before. Raises CannotStart, StorageError.

    Also finds out whether the store honours the condition: what is there must not be written again.
    """
    url = join(output, PLAN_FILE)
    put_if_absent(url, plan.to_bytes())
    there = read_plan(output)
    if there is None or put_if_absent(url, there.to_bytes()):
        raise CannotStart(
            f"{output} is in a store that ignores `If-None-Match: *`: {PLAN_FILE} could be written twice, and so could "
            "every shard. Use a store that honours conditional writes, as AWS S3 does."
        )
    return there


def check_same(there: Plan, job: Job, inputs: Sequence[StoredObject], model: PlannedModel) -> None:
    """Raises PlanDiffers, naming each difference, when `there` is not the plan of this very job."""
    found = list(_differences(there, job, inputs, model))
    if not found:
        return
    more = f"\n  and {len(found) - 10} more" if len(found) > 10 else ""
    raise PlanDiffers(
        f"{job.output} belongs to another job. Against its {PLAN_FILE}:\n  "
        + "\n  ".join(found[:10])
        + f"{more}\nRestore these to finish that job, or choose another output for this one."
    )


def _differences(there: Plan, job: Job, inputs: Sequence[StoredObject], model: PlannedModel) -> Iterator[str]:
    if there.model.digest != model.digest:
        yield f"model: it was {there.model.tag} ({there.model.digest[:12]}), now {model.tag} ({model.digest[:12]})"
    old: dict[str, Any] = {**_flat(there.settings), **there.model.model_dump(include={"kind", "threshold", "labels"})}
    new = {
        **_flat(shaping_settings(job)),
        **model.model_dump(include={"kind", "threshold", "labels"}),
    }
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            yield f"{key}: it was {old.get(key)!r}, now {new.get(key)!r}"
    before = {file.url: (file.size_bytes, file.version) for file in there.files}
    now = {entry.url: (entry.size_bytes, entry.version) for entry in inputs}
    for url in sorted({*before, *now}):
        if before.get(url) != now.get(url):
            what = "is new" if url not in before else "is gone" if url not in now else "has changed"
            yield f"input: {url} {what}"


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
