"""The figures of `train_log.jsonl` once more as TensorBoard reads them: `tensorboard --logdir runs`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

TAGS = {"loss": "train/loss", "lr": "train/learning_rate"}


class Scalars:
    """One event file in `folder`, begun anew: a run that goes on writes its kept entries again, so that no step stands
    there twice. `started`: of the run; an entry's time is that and the seconds trained until it."""

    def __init__(self, folder: Path, started: datetime) -> None:
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(folder, ignore_errors=True)
        self._started = started.timestamp()
        self._writer = SummaryWriter(str(folder))

    def write(self, entry: Mapping[str, Any]) -> None:
        """One entry of the log."""
        for key, value in entry.items():
            if key not in ("step", "seconds"):
                tag = TAGS.get(key) or f"valid/{key.removeprefix('valid_')}"
                self._writer.add_scalar(tag, value, entry["step"], walltime=self._started + entry["seconds"])

    def flush(self) -> None:
        """What was written so far can be read now."""
        self._writer.flush()

    def close(self) -> None:
        """The run is over."""
        self._writer.close()
