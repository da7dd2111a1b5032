"""The commit protocol: a shard is there whole or not at all, and never twice.

1. Its bad rows go to `_errors/NAME.jsonl`, by a conditional write (only if absent).
2. Its predictions go to `NAME.EXT`, by a conditional write. This is the commit: what is there is done.
3. When every shard is committed, what lies there is counted against the input (reconcile.py); then `_SUCCESS` follows.

The content of both files is a function of the shard's rows, the job and the artifact alone, so it does not matter which
of two workers wins, nor where a killed run stopped. It does matter that the store honours the condition; plan.py finds
out before anything else is written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batch.errors import NotReconciled
from batch.job import Job
from batch.predictions import count, encode, encode_lines
from batch.reading import Shard
from batch.scoring import Scored
from records.storage import exists, join, list_files, put_if_absent, read_bytes
from runtime.manifest import Kind

SUCCESS_FILE = "_SUCCESS"
ERRORS_FOLDER = "_errors"
SHARD_PREFIX = "part-"


@dataclass(frozen=True, slots=True)
class Committed:
    """What lies in the output for one shard. `bad` are the lines of its errors file."""

    name: str
    rows_out: int
    sha256: str
    bad: tuple[Mapping[str, Any], ...]


def shard_url(job: Job, shard: str) -> str:
    """Where a shard's predictions go."""
    return join(job.output, f"{shard}.{job.format}")


def errors_url(job: Job, shard: str) -> str:
    """Where a shard's bad rows go, if it has any."""
    return join(job.output, f"{ERRORS_FOLDER}/{shard}.jsonl")


def commit_shard(job: Job, kind: Kind, shard: Shard, scored: Scored) -> bool:
    """Write the errors, then the predictions. Returns whether this call made the commit. Raises StorageError."""
    if scored.rejects:
        errors = [
            {"file": shard.file, "line": row.line, "id": row.id, "reason": row.reason, "raw": row.raw}
            for row in scored.rejects
        ]
        put_if_absent(errors_url(job, shard.name), encode_lines(errors))
    return put_if_absent(shard_url(job, shard.name), encode(scored.predictions, job.format, kind))


def committed_shards(output: str) -> set[str]:
    """Names, with their endings, of the shards that lie in the output. Raises StorageError."""
    names = (url.removeprefix(join(output, "")) for url in list_files(output))
    return {name for name in names if name.startswith(SHARD_PREFIX)}


def read_committed(job: Job, shard: str) -> Committed:
    """Count what is really there. Raises NotReconciled for a file that nobody committed, StorageError."""
    url, errors = shard_url(job, shard), errors_url(job, shard)
    data = read_bytes(url)
    bad = read_bytes(errors) if exists(errors) else b""
    try:
        rows = count(data, job.format)
        url = errors
        lines = tuple(json.loads(line) for line in bad.splitlines())
    except ValueError as error:
        raise NotReconciled(f"{url} is not what was committed: {error}. Delete it and run the job again.") from None
    return Committed(shard, rows, hashlib.sha256(data).hexdigest(), lines)


def commit_success(output: str, report: Mapping[str, Any]) -> None:
    """Write `_SUCCESS`. Another run that finished first wrote the same."""
    put_if_absent(join(output, SUCCESS_FILE), (json.dumps(report, indent=1) + "\n").encode())


def read_success(output: str) -> Mapping[str, Any] | None:
    """The report of a finished job; None where it has not finished."""
    url = join(output, SUCCESS_FILE)
    report: Mapping[str, Any] | None = json.loads(read_bytes(url)) if exists(url) else None
    return report
