"""One job from plan to `_SUCCESS`: survey, skip what is committed, score, commit, reconcile."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batch.commit import commit_success, committed_shards, read_success
from batch.errors import CannotStart, NotReconciled
from batch.job import Job
from batch.plan import (
    PLAN_FILE,
    Plan,
    PlannedModel,
    Survey,
    check_same,
    commit_plan,
    list_inputs,
    make_plan,
    plan_model,
    read_plan,
    survey,
)
from batch.pool import Pool, Task
from batch.progress import Progress
from batch.reading import Reader, Shard
from batch.reconcile import reconcile
from records.rows import check_encoding
from records.s3 import SCHEME
from records.storage import StoredObject
from runtime.manifest import MANIFEST_FILE, Manifest, read_manifest
from runtime.store import ModelStore, store_home

# Works shards off wherever it likes, with `work_on` of pool.py, and yields each when it is committed.
Executor = Callable[[Task, Iterable[Shard], int], Iterator[Shard]]


@dataclass(frozen=True, slots=True)
class Outline:
    """A job before anything is written: `plan` is the one that is there, or the one that would be."""

    plan: Plan
    survey: Survey | None  # None: the plan is there already
    model: PlannedModel
    inputs: Sequence[StoredObject]
    directory: Path


def local_pool(task: Task, shards: Iterable[Shard], open_shards: int) -> Iterator[Shard]:
    """The executor of one machine: a process a core, or `workers`."""
    cores = len(os.sched_getaffinity(0))
    return Pool(task, min(task.job.workers or cores, open_shards)).run(shards)


def outline(job: Job, progress: Progress) -> Outline:
    """Resolve the model, list and survey the input, and hold that against the plan in the output, if one is there.

    Writes nothing. Raises CannotStart, PlanDiffers, RowsError, StorageError, SluiceError.
    """
    check_encoding(job.encoding)
    tag, directory, manifest = find_model(job.model)
    model = plan_model(job, tag, manifest)
    inputs = list_inputs(job)
    plan = read_plan(job.output)
    if plan is not None:
        check_same(plan, job, inputs, model)
        return Outline(plan, None, model, inputs, directory)
    _check_empty(job.output)
    found = survey(Reader(job, model.kind), inputs, progress)
    return Outline(make_plan(job, model, found), found, model, inputs, directory)


def run_job(job: Job, progress: Progress, executor: Executor = local_pool) -> Mapping[str, Any]:
    """Run or finish a job; returns the report that stands in `_SUCCESS`.

    Raises BatchError, RowsError, StorageError, SluiceError.
    """
    drawn = outline(job, progress)
    plan = commit_plan(drawn.plan, job.output)
    check_same(plan, job, drawn.inputs, drawn.model)
    finished = read_success(job.output)
    if finished is not None:
        progress.say(f"{job.output} is finished: nothing to do.")
        return finished
    for duplicate in plan.duplicates:
        progress.say(f"the same id twice: {duplicate}")
    _score(job, plan, drawn.directory, progress, executor)
    if list_inputs(job) != list(drawn.inputs):
        raise NotReconciled(f"{job.input} changed while the job ran. Use another output for what it holds now.")
    report = reconcile(job, plan)
    commit_success(job.output, report)
    return report


def _score(job: Job, plan: Plan, directory: Path, progress: Progress, executor: Executor) -> None:
    there = committed_shards(job.output)
    todo = {name: rows for name, rows in plan.all_shards().items() if f"{name}.{job.format}" not in there}
    rows = sum(todo.values())
    files = "1 file" if len(plan.files) == 1 else f"{len(plan.files):,} files"
    what = f"{len(todo):,} of {len(plan.all_shards()):,} shards to do"
    progress.say(f"{plan.rows:,} rows in {files}, model {plan.model.tag}: {what}")
    if not todo:
        return
    progress.begin(plan.rows, plan.rows - rows)
    for shard in executor(Task(job, plan.model, directory), _open_shards(job, plan, set(todo)), len(todo)):
        progress.move(len(shard.rows))
    progress.end()


def _open_shards(job: Job, plan: Plan, todo: set[str]) -> Iterator[Shard]:
    reader = Reader(job, plan.model.kind)
    for place, file in enumerate(plan.files):
        if wanted := todo & set(plan.shards(place)):
            yield from reader.cut(place, file.url, wanted)


def find_model(reference: str) -> tuple[str, Path, Manifest]:
    """(tag, directory, manifest) of an artifact folder or a name in the model store.

    Raises ModelNotFound, InvalidInput, ArtifactRefused.
    """
    if (Path(reference) / MANIFEST_FILE).is_file():
        return reference, Path(reference), read_manifest(Path(reference))
    entry = ModelStore(store_home(os.environ)).resolve(reference)
    return entry.tag, entry.path, entry.manifest


def _check_empty(output: str) -> None:
    """A new job must not add to files that are nobody's plan."""
    if not output.startswith(SCHEME) and not Path(output).exists():
        return
    there = sorted(committed_shards(output))
    if there:
        raise CannotStart(f"{output} holds {there[0]} but no {PLAN_FILE}; choose an output of its own for this job.")
