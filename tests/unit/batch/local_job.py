"""Batch jobs on local files, scored in this process: the same plan, shards, commits and reconciliation as anywhere."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from batch.job import Job
from batch.pool import Task, work_on
from batch.progress import Progress
from batch.reading import Shard
from batch.run import run_job
from batch.scoring import Scorer


def in_process(task: Task, shards: Iterable[Shard], open_shards: int) -> Iterator[Shard]:
    """An executor without processes."""
    scorer = Scorer(task.job, task.model, task.directory)
    try:
        for shard in shards:
            work_on(task, shard, scorer)
            yield shard
    finally:
        scorer.close()


def run_here(job: Job) -> Mapping[str, Any]:
    """Run a job to its end."""
    return run_job(job, Progress(io.StringIO()), in_process)


def pairs(count: int) -> str:
    """JSONL of pairs without ids; every seventh row is bad."""
    rows = (
        "not json" if n % 7 == 6 else json.dumps({"text_a": f"a b c{n % 5}", "text_b": f"b c{n % 3}"})
        for n in range(count)
    )
    return "".join(f"{row}\n" for row in rows)


def tree(folder: Path) -> dict[str, bytes]:
    """Relative path -> bytes of every file below `folder`, hidden ones too."""
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
