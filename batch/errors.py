"""How a job can end without `_SUCCESS`, as one tree.

    BatchError
    ├── CannotStart        as it is written the job makes no sense; nothing was written
    │   └── PlanDiffers    the output belongs to another job
    └── JobFailed          it began, and ended without `_SUCCESS`; committed shards are kept
        ├── TooManyBadRows
        ├── NotReconciled  what lies in the output is not what was read
        └── WorkerLost     a shard ended its worker process on every try

`exit_code` is what `python -m batch` ends with.
"""

from __future__ import annotations


class BatchError(Exception):
    """Base of what `run_job` raises on its own account."""

    exit_code = 1


class CannotStart(BatchError):
    exit_code = 2


class PlanDiffers(CannotStart):
    pass


class JobFailed(BatchError):
    pass


class TooManyBadRows(JobFailed):
    pass


class NotReconciled(JobFailed):
    pass


class WorkerLost(JobFailed):
    pass
