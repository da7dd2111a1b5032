"""Hidden states of a frozen encoder, computed once a row and kept on disk, so that a head trains without the encoder.

They lie in the run's trainer folder: a resumed run finds them, and they go with the folder when the run has finished.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from runtime.contract import F32
from runtime.errors import InvalidInput
from training.batches import sorted_batches
from training.task import Batch, Row, Task

ROWS_AT_ONCE = 32
LOGGED_LINES = 10


def cache_hidden_states(task: Task, folder: Path) -> Task:
    """The same task, of a model with `hidden_states` and a frozen encoder, whose batches have them as `hidden`.

    Rows with the same tokens share theirs. Raises InvalidInput where the disk has no room.
    """
    rows = list({_tokens(row): row for row in (*task.train, *task.valid)}.values())
    lengths = [task.length(row) for row in rows]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    path = folder / f"hidden-{_digest(task, rows)}.f32"
    shape = (int(starts[-1]), int(task.model.config.hidden_size))  # all tokens one after another, E
    if not path.exists():
        _check_room(folder, shape)
        partial = path.with_suffix(".partial")
        _compute(task, rows, lengths, starts, np.memmap(partial, np.float32, "w+", shape=shape))
        partial.rename(path)
    states = np.memmap(path, np.float32, "r", shape=shape)
    places = {_tokens(row): (int(starts[place]), int(starts[place + 1])) for place, row in enumerate(rows)}

    def collate(batch: Sequence[Row]) -> Batch:
        made = task.collate(batch)
        hidden = torch.zeros(*made["input_ids"].shape, shape[1])
        for index, row in enumerate(batch):
            start, end = places[_tokens(row)]
            hidden[index, : end - start] = torch.from_numpy(np.array(states[start:end]))
        return {**made, "hidden": hidden}

    return replace(task, collate=collate)


def _compute(task: Task, rows: Sequence[Row], lengths: Sequence[int], starts: np.ndarray, states: F32) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = task.model.to(device).eval()
    batches = sorted_batches(lengths, ROWS_AT_ONCE)
    shown = {len(batches) * (part + 1) // LOGGED_LINES for part in range(LOGGED_LINES)}
    done = 0
    for number, batch in enumerate(batches, 1):
        inputs = {name: each.to(device) for name, each in task.collate([rows[place] for place in batch]).items()}
        del inputs["labels"]
        with torch.inference_mode():
            hidden = model.hidden_states(**inputs).float().cpu().numpy()  # (B, T, E)
        for place, row in zip(batch, hidden, strict=True):
            states[starts[place] : starts[place + 1]] = row[: lengths[place]]
        done += len(batch)
        if number in shown:
            print(f"hidden states of the frozen encoder: {done} of {len(rows)} different rows", flush=True)


def _check_room(folder: Path, shape: tuple[int, int]) -> None:
    needed, free = 4 * shape[0] * shape[1], shutil.disk_usage(folder).free
    if needed > free:
        raise InvalidInput(
            f"The hidden states of the frozen encoder take {needed / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB; "
            "make room, or set runs=… to a larger disk."
        )


def _tokens(row: Row) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(row["ids"]), tuple(row["types"])


def _digest(task: Task, rows: Sequence[Row]) -> str:
    """Of the encoder's weights and the rows' tokens: what the hidden states depend on."""
    digest = hashlib.sha256()
    for name, weight in task.model.base_model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    digest.update(repr([_tokens(row) for row in rows]).encode())
    return digest.hexdigest()[:16]
