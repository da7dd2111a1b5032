"""`python -m batch`: a model over files or S3. Run again, a job goes on where it stopped.

Exit codes: 0 done, or done before; 1 failed as described, committed shards are kept; 2 wrong usage, job file, model or
input, nothing was written; 130 interrupted, 143 told to stop: run it again to go on.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from batch.commit import committed_shards, read_success
from batch.errors import BatchError, CannotStart
from batch.job import Job
from batch.plan import PLAN_FILE, read_plan
from batch.progress import Progress
from batch.run import Outline, outline, run_job
from records.document import DocumentError, read_document
from records.rows import RowsError
from records.storage import StorageError
from runtime.errors import SluiceError

EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, EXIT_INTERRUPTED, EXIT_STOPPED = 0, 1, 2, 130, 143


class _Stopped(KeyboardInterrupt):
    """SIGTERM: the machine goes away, or somebody stopped the job."""


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = _parser()
    # Overrides may stand before and after options; a sub-command's own parser takes only the first group.
    options, rest = parser.parse_known_args(arguments)
    if any(argument.startswith("-") or "=" not in argument for argument in rest):
        parser.error(f"not understood: {' '.join(rest)}")
    signal.signal(signal.SIGTERM, _stop)
    try:
        job = read_document(options.job, Job, [*options.overrides, *rest])
        result, text = _status(job) if options.action == "status" else _run(job, dry=options.dry_run)
    except (BatchError, DocumentError, StorageError, SluiceError) as error:
        print(f"batch: {error}", file=sys.stderr)
        return _exit_code(error)
    except KeyboardInterrupt as error:
        print("\nbatch: stopped; run it again to go on, committed shards are kept.", file=sys.stderr)
        return EXIT_STOPPED if isinstance(error, _Stopped) else EXIT_INTERRUPTED
    print(json.dumps(result, indent=1) if options.json else text)
    return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m batch", description=__doc__, formatter_class=raw)
    actions = parser.add_subparsers(dest="action", required=True)
    run = actions.add_parser(
        "run", help="run a job, or finish one that was stopped", description=__doc__, formatter_class=raw
    )
    run.add_argument("--dry-run", action="store_true", help="read the input and show what would be done; write nothing")
    status = actions.add_parser("status", help="how far a job has come; reads its output only")
    for action in (run, status):
        action.add_argument("job", type=Path, help="JOB.yaml; its keys are explained in docs/batch.md")
        action.add_argument("overrides", nargs="*", metavar="key=value", help="replace settings of the job")
        action.add_argument("--json", action="store_true", help="the result as JSON on stdout")
    return parser


def _exit_code(error: Exception) -> int:
    if isinstance(error, BatchError):
        return error.exit_code
    # Storage may answer again later; a damaged file, a wrong key or an unknown model will not mend themselves.
    return EXIT_FAILED if isinstance(error, StorageError) and not isinstance(error, RowsError) else EXIT_REFUSED


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stopped


def _run(job: Job, *, dry: bool) -> tuple[Mapping[str, Any], str]:
    progress = Progress(sys.stderr)
    if dry:
        return _describe(outline(job, progress))
    report = run_job(job, progress)
    twice = f", {report['duplicate_ids']:,} duplicate ids" if report["duplicate_ids"] else ""
    where = f" (see {job.output.rstrip('/')}/_errors/)" if report["rows_bad"] else ""
    counts = f"{report['rows_in']:,} rows in, {report['rows_out']:,} out, {report['rows_bad']:,} bad{where}{twice}"
    return report, f"{job.output}: {counts}, {len(report['shards']):,} shards, _SUCCESS"


def _describe(drawn: Outline) -> tuple[Mapping[str, Any], str]:
    plan, found = drawn.plan, drawn.survey
    rejects = [{"file": file, "line": row.line, "reason": row.reason} for file, row in found.rejects] if found else []
    result = {
        "rows_in": plan.rows,
        "usable": found.usable if found else None,
        "shards": len(plan.all_shards()),
        "duplicate_ids": plan.duplicate_ids,
        "model": plan.model.model_dump(mode="json"),
        "files": [{"file": file.url, "rows": file.rows} for file in plan.files],
        "first_unusable": rejects,
        "begun": found is None,
    }
    lines = [f"model   {plan.model.tag} ({plan.model.kind}, {plan.model.digest[:12]})"]
    lines += [f"file    {file.url}: {file.rows:,} rows" for file in plan.files]
    lines += [f"bad     {row['file']}:{row['line']}: {row['reason']}" for row in rejects]
    lines += [f"twice   {duplicate}" for duplicate in plan.duplicates]
    unusable = f", {plan.rows - found.usable:,} of them unusable" if found else ""
    begun = "; the job has begun" if found is None else ""
    lines.append(f"in all  {plan.rows:,} rows{unusable}, {len(plan.all_shards()):,} shards{begun}; nothing was written")
    return result, "\n".join(lines)


def _status(job: Job) -> tuple[Mapping[str, Any], str]:
    plan = read_plan(job.output)
    if plan is None:
        raise CannotStart(f"{job.output} has no {PLAN_FILE}: the job has not begun.")
    shards = plan.all_shards()
    there = committed_shards(job.output)
    done = {name: rows for name, rows in shards.items() if f"{name}.{job.format}" in there}
    finished = read_success(job.output) is not None
    result = {
        "finished": finished,
        "rows_in": plan.rows,
        "rows_committed": sum(done.values()),
        "shards": len(shards),
        "shards_committed": len(done),
        "model": plan.model.tag,
    }
    state = "finished, _SUCCESS is there" if finished else "not finished"
    rows = f"{sum(done.values()):,} of {plan.rows:,} rows"
    return result, f"{job.output}: {len(done):,} of {len(shards):,} shards ({rows}) are committed; {state}"
