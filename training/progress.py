"""What a training run tells while it runs: a bar on a terminal, plain lines in a log, and every figure as JSONL."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import transformers
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

LINE_EVERY_S = 10.0


class Diverged(Exception):
    """The loss is not a number any more."""


def quiet_libraries() -> None:
    """Keep transformers' own bars and notes out of ours: what matters of them becomes an error of ours."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


class Sink(Protocol):
    """Another place that the entries of a train log go to."""

    def write(self, entry: Mapping[str, Any]) -> None:
        """One entry; `step` and `seconds` are in it."""

    def flush(self) -> None:
        """A checkpoint is written: no run will begin before it again."""


class TrainLog:
    """`train_log.jsonl`: one line for every logged step and every validation, with the seconds trained so far.

    Opened for a run that continues at `step`: lines after it, from a run that was killed later, are taken out. Each of
    `sinks` gets all entries, those that are there already too.
    """

    def __init__(self, path: Path, step: int, sinks: Sequence[Sink] = ()) -> None:
        self.path = path
        self._sinks = sinks
        kept = [entry for entry in read_log(path) if entry["step"] <= step]
        path.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")
        self._before_s = float(kept[-1]["seconds"]) if kept else 0.0
        self._begun = time.monotonic()
        for entry in kept:
            for sink in sinks:
                sink.write(entry)

    @property
    def seconds(self) -> float:
        """Seconds trained, interrupted runs included."""
        return self._before_s + time.monotonic() - self._begun

    def write(self, entry: dict[str, Any]) -> None:
        """Append one line."""
        entry = entry | {"seconds": round(self.seconds, 2)}
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
        for sink in self._sinks:
            sink.write(entry)

    def flush(self) -> None:
        """Tell the sinks that what they have will stay."""
        for sink in self._sinks:
            sink.flush()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a train log, a last line cut off by a kill left out; none when there is no file."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return entries


class ProgressReport(TrainerCallback):
    """Trainer's events -> TrainLog and the terminal. Raises Diverged when the loss is no number."""

    def __init__(self, log: TrainLog, *, terminal: bool) -> None:
        self._log = log
        self._bar: tqdm[Any] | None = None
        self._terminal = terminal
        self._first_step = 0
        self._begun = self._last_line = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock and the bar."""
        self._first_step = state.global_step
        self._begun = self._last_line = time.monotonic()
        if self._terminal:
            self._bar = tqdm(total=state.max_steps, initial=state.global_step, desc="train", unit="step", leave=True)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """A training loss or a validation came in."""
        logs = logs or {}
        step = state.global_step
        if "loss" in logs:
            loss = float(logs["loss"])
            if not math.isfinite(loss):
                raise Diverged(
                    f"The loss is {loss} at step {step}: the training diverged. Lower train.learning_rate "
                    f"(now {args.learning_rate:g}) or lengthen train.warmup_steps (now {args.warmup_steps:g}), "
                    "and start again with --fresh."
                )
            self._log.write({"step": step, "loss": round(loss, 5), "lr": logs["learning_rate"]})
            self._tell_training(state, loss, logs["learning_rate"])
        elif "eval_loss" in logs:
            timing = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
            figures = {
                f"valid_{key.removeprefix('eval_')}": round(float(value), 5)
                for key, value in logs.items()
                if key.startswith("eval_") and key not in timing
            }
            self._log.write({"step": step, **figures})
            shown = "  ".join(f"{key.removeprefix('valid_')} {value:.4f}" for key, value in figures.items())
            self._tell(f"valid {step:>6}/{state.max_steps}  {shown}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    def _tell_training(self, state: TrainerState, loss: float, rate: float) -> None:
        now = time.monotonic()
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{loss:.4f}", lr=f"{rate:.1e}")
        elif now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            left = (now - self._begun) / max(state.global_step - self._first_step, 1)
            left *= state.max_steps - state.global_step
            line = f"train {state.global_step:>6}/{state.max_steps}  loss {loss:.4f}  lr {rate:.1e}"
            self._tell(f"{line}  {self._log.seconds:.0f} s, about {left:.0f} s left")

    def _tell(self, line: str) -> None:
        if self._bar is not None:
            self._bar.write(line, file=sys.stdout)
        else:
            print(line, flush=True)
