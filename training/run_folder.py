"""A run's folder: who uses it, which training it holds, what of an earlier one has to go."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import torch

from runtime.errors import ArtifactRefused
from runtime.manifest import Precision, verify
from training.checkpoint import git_commit, versions
from training.compression.step import COMPRESSED
from training.data.splits import Splits
from training.data.texts import TextSplits
from training.hardware import this_machine
from training.recipe import Recipe
from training.run_record import TrainRecord, changes, dependencies

LOG_FILE, CURVES_FILE, REPORT_FILE, REJECTS_FILE = "train_log.jsonl", "curves.png", "data_report.json", "rejects.jsonl"
CHECKPOINT, TRAINER, TENSORBOARD = "checkpoint", "trainer", "tensorboard"


class RunRefused(Exception):
    """The run folder holds another training, or one that is running."""


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """One training at a time in a run folder; the lock goes with the process, however that ends."""
    with (run / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunRefused(f"{run} is in use by another process; wait for it, or give another name=….") from None
        yield


def begin(recipe: Recipe, old: TrainRecord | None, depends_on: Mapping[str, Any]) -> TrainRecord:
    """The record of a run that begins, or of `old` that goes on, on this machine."""
    now = versions()
    if old is None:
        return TrainRecord(
            status="running",
            recipe=recipe,
            depends_on=dict(depends_on),
            versions=now,
            git_commit=git_commit(),
            started=datetime.now(UTC).replace(microsecond=0),
            hardware=this_machine(),
            threads=torch.get_num_threads(),
        )
    other = [f"{name} {old.versions.get(name)} -> {now[name]}" for name in now if old.versions.get(name) != now[name]]
    if other:
        print(f"WARNING: resumed with other libraries, so the weights may differ slightly: {', '.join(other)}")
    here = {"hardware": this_machine(), "threads": torch.get_num_threads()}
    return old.model_copy(update={"status": "running", "recipe": recipe, **here})


def check_same(run: Path, old: TrainRecord, depends_on: Mapping[str, Any]) -> None:
    """Raises RunRefused when `old` depends on something else, naming it."""
    # Through JSON, as the old one went: tuples and lists compare equal then.
    now = json.loads(json.dumps(depends_on))
    # A setting that came after the old run was then what it is when nobody sets it.
    settings = dependencies(old.recipe, {}, None)
    later = {name: settings[name] for name in settings.keys() & now.keys() - old.depends_on.keys()}
    different = changes(later | old.depends_on, now)
    if different:
        what = "finished with" if old.status == "finished" else "was begun with"
        listed = "\n".join(f"  {change}" for change in different)
        raise RunRefused(
            f"{run} {what} another recipe or data:\n{listed}\n"
            "Put it back, give the new run another name=…, or start over with --fresh, which deletes the old one."
        )


def is_whole(checkpoint: Path) -> bool:
    """Whether the artifact is all there; says what is not."""
    try:
        verify(checkpoint)
    except ArtifactRefused as error:
        print(f"{error} Training again.")
        return False
    return True


def clear(run: Path) -> None:
    """Remove what an earlier training left here, with the artifacts that were made from its checkpoint."""
    for name in (TRAINER, TENSORBOARD, CHECKPOINT, COMPRESSED, *get_args(Precision)):
        shutil.rmtree(run / name, ignore_errors=True)
    for name in (LOG_FILE, CURVES_FILE, REPORT_FILE, REJECTS_FILE):
        (run / name).unlink(missing_ok=True)
    for path in run.glob("explain*"):  # of the old weights
        path.unlink()


def write_data_report(run: Path, splits: Splits) -> None:
    """Show the data report and write it, with the rejected rows, into the run folder."""
    for text in splits.report.lines():
        print(text, flush=True)
    (run / REPORT_FILE).write_text(splits.report.model_dump_json(indent=1) + "\n", encoding="utf-8")
    rejects = () if isinstance(splits, TextSplits) else splits.rejects
    (run / REJECTS_FILE).unlink(missing_ok=True)
    if rejects:
        with (run / REJECTS_FILE).open("w", encoding="utf-8") as stream:
            for split, reject in rejects:
                line = {"split": split, "where": reject.where, "reason": reject.reason, "detail": reject.detail}
                stream.write(json.dumps({**line, "row": reject.row}, default=str) + "\n")
        print(f"data rejects: {run / REJECTS_FILE}", flush=True)
