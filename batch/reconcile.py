"""Is everything there? What lies in the output against what the plan counted in the input; then `_SUCCESS`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from batch.commit import Committed, committed_shards, read_committed, shard_url
from batch.errors import NotReconciled, TooManyBadRows
from batch.job import Job
from batch.plan import Plan

SHOWN_BAD = 5
# Small reads wait for the network, not for a core.
READERS = 8


def reconcile(job: Job, plan: Plan) -> Mapping[str, Any]:
    """Count what is really there and return the report for `_SUCCESS`; the same for every run of a job.

    Raises NotReconciled when a single row is unaccounted for, TooManyBadRows, StorageError.
    """
    expected = plan.all_shards()
    files = {f"{name}.{job.format}" for name in expected}
    there = committed_shards(job.output)
    if missing := sorted(files - there):
        raise NotReconciled(
            f"{job.output} has lost {missing[0]} ({len(missing)} such) since it was committed. Run the job again."
        )
    if foreign := sorted(there - files):
        raise NotReconciled(
            f"{job.output} holds {foreign[0]}, which is none of this job's shards ({len(foreign)} such). "
            "Remove it, if nobody needs it, and run the job again."
        )
    with ThreadPoolExecutor(READERS) as pool:
        found = dict(zip(expected, pool.map(lambda name: read_committed(job, name), expected), strict=True))
    for name, rows in expected.items():
        _check(job, found[name], rows)
    per_file = [
        _counts(file.rows, [found[name] for name in plan.shards(place)]) for place, file in enumerate(plan.files)
    ]
    report = {
        "schema_version": 1,
        **_counts(plan.rows, list(found.values())),
        "duplicate_ids": plan.duplicate_ids,
        "model": {"tag": plan.model.tag, "digest": plan.model.digest},
        "plan": plan.digest,
        "files": [{"file": file.url, **counts} for file, counts in zip(plan.files, per_file, strict=True)],
        "shards": [
            {"name": each.name, "rows_out": each.rows_out, "rows_bad": len(each.bad), "sha256": each.sha256}
            for each in found.values()
        ],
    }
    _judge(job, plan.rows, [line for each in found.values() for line in each.bad])
    return report


def _check(job: Job, there: Committed, rows: int) -> None:
    if there.rows_out + len(there.bad) != rows:
        raise NotReconciled(
            f"{shard_url(job, there.name)} holds {there.rows_out} predictions and {len(there.bad)} bad rows for {rows} "
            "rows of the input. Either somebody else wrote there, or rows failed in one run and not in another. "
            f"Delete it and its file in _errors/, and run the job again."
        )


def _counts(rows_in: int, shards: Sequence[Committed]) -> dict[str, int]:
    return {
        "rows_in": rows_in,
        "rows_out": sum(shard.rows_out for shard in shards),
        "rows_bad": sum(len(shard.bad) for shard in shards),
    }


def _judge(job: Job, rows: int, bad: Sequence[Mapping[str, Any]]) -> None:
    if not rows or len(bad) / rows <= job.max_error_share:
        return
    raise TooManyBadRows(
        f"{len(bad):,} of {rows:,} rows are bad ({len(bad) / rows:.1%}), max_error_share allows "
        f"{job.max_error_share:.1%}:\n{shown(bad)}\n"
        f"They stand with their reasons in {job.output.rstrip('/')}/_errors/. Mend the input and use another output, "
        "or allow more and run the job again."
    )


def shown(bad: Sequence[Mapping[str, Any]]) -> str:
    """The first bad rows, one a line."""
    lines = [f"  {row['file']}:{row['line']}: {row['reason']}" for row in bad[:SHOWN_BAD]]
    return "\n".join(lines + ([f"  and {len(bad) - SHOWN_BAD:,} more"] if len(bad) > SHOWN_BAD else []))
