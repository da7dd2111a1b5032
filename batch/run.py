"""One job from plan to `_SUCCESS`: read, skip what is committed, score, commit, reconcile."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batch.commit import Committed, commit_success, read_committed, read_success, shard_url
from batch.job import Job
from batch.plan import Plan, Shard, commit_plan, cut, make_plan
from batch.pool import score_all
from batch.scoring import row_id
from records.storage import list_files
from runtime.errors import ArtifactRefused
from runtime.manifest import MANIFEST_FILE, Manifest, read_manifest
from runtime.store import ModelStore, store_home

PROGRESS_S = 2.0


class JobFailed(Exception):
    """The job ended without `_SUCCESS`; the message says why and what to do."""


@dataclass
class Tally:
    """Rows as the reader saw them, whether their shard was scored now or before."""

    rows: Counter[str] = field(default_factory=Counter)  # file -> rows
    shards: dict[str, tuple[str, int]] = field(default_factory=dict)  # shard -> (file, rows)
    ids: set[int] = field(default_factory=set)
    duplicate_ids: int = 0
    skipped: int = 0

    def see(self, shard: Shard, file: str, id_column: str | None) -> None:
        """Count a shard that the reader has cut."""
        self.rows[file] += len(shard.rows)
        self.shards[shard.name] = (file, len(shard.rows))
        if id_column:
            for row in shard.rows:
                key = hash(row_id(row, id_column))
                self.duplicate_ids += key in self.ids
                self.ids.add(key)


def find_model(reference: str) -> tuple[str, Path, Manifest]:
    """(tag, directory, manifest) of an artifact folder or a name in the model store.

    Raises ModelNotFound, InvalidInput, ArtifactRefused.
    """
    if (Path(reference) / MANIFEST_FILE).is_file():
        return reference, Path(reference), read_manifest(Path(reference))
    entry = ModelStore(store_home(os.environ)).resolve(reference)
    return entry.tag, entry.path, entry.manifest


def run_job(job: Job, log: Callable[[str], None]) -> Mapping[str, Any]:
    """Run or finish a job; returns the report that stands in `_SUCCESS`.

    Raises JobFailed, PlanDiffers, WorkerLost, StorageError, SluiceError.
    """
    tag, directory, manifest = find_model(job.model)
    if manifest.kind not in {"matching", "generation"}:
        raise ArtifactRefused(f"{tag} is of kind {manifest.kind}; batch runs matching and generation models.")
    plan = make_plan(job, manifest)
    if not plan.inputs:
        raise JobFailed(f"{job.input}: there is nothing there to read.")
    first = commit_plan(plan, job.output)
    finished = read_success(job.output)
    if finished is not None:
        log(f"{job.output} is finished: nothing to do.")
        return finished
    log(f"{'starting' if first else 'going on with'} {job.output}: {len(plan.inputs)} files, model {tag}")
    tally = Tally()
    _score(job, plan, directory, manifest.kind, tally, log)
    report = _reconcile(job, plan, tag, tally)
    _judge(job, report)
    commit_success(job.output, report)
    return report


def _score(job: Job, plan: Plan, directory: Path, kind: str, tally: Tally, log: Callable[[str], None]) -> None:
    committed = set(list_files(job.output))
    begun = shown = time.monotonic()
    rows = 0

    def missing() -> Iterator[Shard]:
        for shard in cut(job, plan):
            tally.see(shard, plan.inputs[shard.file].url, job.columns.id)
            if shard_url(job.output, shard.name, job.format) in committed:
                tally.skipped += 1
            else:
                yield shard

    for shard in score_all(missing(), job, directory, kind):
        rows += len(shard.rows)
        if time.monotonic() - shown > PROGRESS_S:
            shown = time.monotonic()
            log(f"{rows} rows, {rows / (shown - begun):.0f} rows/s, {shard.name} committed")
    took_s = max(time.monotonic() - begun, 1e-9)
    kept = f", {tally.skipped} shards were there before" if tally.skipped else ""
    log(f"{rows} rows scored in {took_s:.1f} s ({rows / took_s:.0f} rows/s){kept}")


def _reconcile(job: Job, plan: Plan, tag: str, tally: Tally) -> dict[str, Any]:
    """Count what lies in the output against what was read. Raises JobFailed when a single row is unaccounted for."""
    found = {name: read_committed(job.output, name, job.format) for name in tally.shards}
    for name, (file, rows) in tally.shards.items():
        there = found[name]
        if there.rows_out + there.rows_bad != rows:
            raise JobFailed(
                f"{shard_url(job.output, name, job.format)} holds {there.rows_out} rows and {there.rows_bad} errors "
                f"for {rows} rows of {file}. Somebody else wrote there, or the store does not honour conditional "
                "writes; use an empty output."
            )
    files = []
    for source in plan.inputs:
        mine = [found[name] for name, (file, _) in tally.shards.items() if file == source.url]
        files.append({"file": source.url, **_counts(tally.rows[source.url], mine)})
    everything = _counts(sum(tally.rows.values()), list(found.values()))
    return {
        "schema_version": 1,
        **everything,
        "duplicate_ids": tally.duplicate_ids if job.columns.id else None,
        "model": {"tag": tag, "digest": plan.model_digest},
        "plan": plan.digest,
        "files": files,
        "shards": [{"name": each.name, "rows": each.rows_out, "sha256": each.sha256} for each in found.values()],
    }


def _counts(rows_in: int, shards: list[Committed]) -> dict[str, int]:
    return {
        "rows_in": rows_in,
        "rows_out": sum(shard.rows_out for shard in shards),
        "rows_bad": sum(shard.rows_bad for shard in shards),
    }


def _judge(job: Job, report: Mapping[str, Any]) -> None:
    rows, bad = report["rows_in"], report["rows_bad"]
    if rows and bad / rows > job.max_error_share:
        raise JobFailed(
            f"{bad} of {rows} rows are bad ({bad / rows:.1%}), max_error_share allows {job.max_error_share:.1%}. "
            f"They stand with their reasons in {job.output.rstrip('/')}/_errors/. Mend the input and use another "
            "output, or allow more and run again."
        )


def print_log(line: str) -> None:
    """Progress goes to stderr, so that stdout is the result alone."""
    print(line, file=sys.stderr, flush=True)


def summary(job: Job, report: Mapping[str, Any]) -> str:
    """The result in one line for a person."""
    twice = f", {report['duplicate_ids']} duplicate ids" if report.get("duplicate_ids") else ""
    counts = f"{report['rows_in']} rows in, {report['rows_out']} out, {report['rows_bad']} bad{twice}"
    return f"{job.output}: {counts}, {len(report['shards'])} shards, _SUCCESS"


def as_json(report: Mapping[str, Any]) -> str:
    """The report for scripts."""
    return json.dumps(report, indent=1)
