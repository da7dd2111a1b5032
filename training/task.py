"""What the training loop needs to know of a kind of model: the model, its rows, and how a validation is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import EvalPrediction, PreTrainedTokenizerBase

Row = Mapping[str, Any]
Batch = dict[str, torch.Tensor]


# kind of model -> the figure of valid that picks the checkpoint, and whether more of it is better
_CHOSEN_BY = {"matching": ("average_precision", True), "embedding": ("average_precision", True)}


def chosen_by(kind: str) -> tuple[str, bool]:
    """(figure, whether more is better) by which a kind of model's checkpoint is picked; the loss where no other is."""
    return _CHOSEN_BY.get(kind, ("loss", False))


@dataclass(frozen=True, slots=True)
class Task:
    """A training run, prepared. `best` names the validation figure that picks the checkpoint."""

    model: torch.nn.Module  # PreTrainedModel, or what `save` makes one of
    tokenizer: PreTrainedTokenizerBase
    train: Sequence[Row]
    valid: Sequence[Row]
    length: Callable[[Row], int]  # tokens of a row
    collate: Callable[[Sequence[Row]], Batch]
    best: str  # as Trainer names it, without "eval_"
    higher_is_better: bool
    judge: Callable[[EvalPrediction], dict[str, float]] | None = None  # None: the loss is all there is
    # (model, batch) -> the loss (), and what `judge` sees (B, …). None: the model computes its own loss from `labels`.
    # The loss of a validation batch may be None: then `judge` gives "loss", of all rows together.
    loss: Callable[[torch.nn.Module, Batch], tuple[torch.Tensor | None, torch.Tensor]] | None = None
    groups: Sequence[int] | None = None  # of each train row: a batch then holds rows of a group in twos
    rates: Mapping[str, float] = field(default_factory=dict)  # parameter -> multiple of the learning rate
    save: Callable[[Path], None] | None = None  # write the model to a folder; None: its save_pretrained
