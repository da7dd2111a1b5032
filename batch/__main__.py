"""`python -m batch run JOB.yaml`: a model over files or S3; run again, it goes on where it stopped."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from batch.job import Job
from batch.plan import PlanDiffers
from batch.pool import WorkerLost
from batch.run import JobFailed, as_json, print_log, run_job, summary
from records.document import DocumentError, read_document
from records.storage import StorageError
from runtime.errors import SluiceError


def main(arguments: list[str]) -> int:
    """Exit codes: 0 done (or done before), 1 failed as described, 2 wrong usage or job file, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m batch", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    run = actions.add_parser("run", help="run a job, or finish one that was stopped", description=main.__doc__)
    run.add_argument("job", type=Path, help="JOB.yaml")
    run.add_argument("overrides", nargs="*", metavar="key=value", help="replace settings of the job")
    run.add_argument("--json", action="store_true", help="print the report of _SUCCESS")
    # Overrides may stand before and after options; a sub-command's own parser takes only the first group.
    options, rest = parser.parse_known_args(arguments)
    if any(argument.startswith("-") or "=" not in argument for argument in rest):
        parser.error(f"not understood: {' '.join(rest)}")
    try:
        job = read_document(options.job, Job, [*options.overrides, *rest])
    except DocumentError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        report = run_job(job, print_log)
    except (JobFailed, PlanDiffers, WorkerLost, StorageError, SluiceError) as error:
        print(f"batch: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("batch: interrupted; run it again to go on, committed shards are kept.", file=sys.stderr)
        return 130
    print(as_json(report) if options.json else summary(job, report))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
