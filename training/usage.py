"""What a run takes: seconds by stage, peak memory, rows and tokens. Measured while it runs, kept with each checkpoint.

A run that was killed and resumed counts what led to its last checkpoint, and all that came after.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.resident_memory import peak_resident_bytes
from training.run_record import Usage


class Meter(TrainerCallback):
    """Measures a run; as a callback of Trainer it tells `train` from `validate` and `checkpoint`.

    `before`: of an earlier, interrupted part of the run. `kept` is called after each checkpoint.
    """

    def __init__(self, before: Usage, kept: Callable[[Usage], None] = lambda usage: None) -> None:
        self._before = before
        self._seconds = dict(before.stage_seconds)
        self._work = (before.rows, before.tokens)
        self._planned = np.zeros((1, 2), np.int64)  # (steps + 1, 2): rows and tokens up to each step
        self._kept = kept
        self._mark = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the seconds of the block, whatever comes of it."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self._add(name, begun)

    @property
    def usage(self) -> Usage:
        """All there is so far."""
        gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
        rows, tokens = self._work
        seconds = self._seconds.get("train", 0.0)
        return Usage(
            stage_seconds={name: round(value, 3) for name, value in self._seconds.items()},
            peak_memory_bytes=max(self._before.peak_memory_bytes, peak_resident_bytes()),
            peak_gpu_memory_bytes=max(self._before.peak_gpu_memory_bytes or 0, gpu) if gpu is not None else None,
            rows=rows,
            tokens=tokens,
            rows_per_s=round(rows / seconds, 2) if seconds else None,
            tokens_per_s=round(tokens / seconds, 1) if seconds else None,
        )

    def plan(self, lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> None:
        """What will be trained on: tokens of each row, and the rows of each step."""
        each = [(len(batch), sum(lengths[index] for index in batch)) for batch in batches]
        self._planned = np.cumsum([(0, 0), *each], axis=0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self._mark = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A step of training is done."""
        rows, tokens = self._planned[state.global_step]
        self._work = (int(rows), int(tokens))
        self._add("train", self._mark)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A validation is done."""
        self._add("validate", self._mark)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A checkpoint is written."""
        self._add("checkpoint", self._mark)
        self._kept(self.usage)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The weights of the best checkpoint are back."""
        self._add("checkpoint", self._mark)

    def _add(self, name: str, since: float) -> None:
        self._mark = time.monotonic()
        self._seconds[name] = self._seconds.get(name, 0.0) + self._mark - since
