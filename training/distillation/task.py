"""Makes a distillation of a training: the same student, data and judge, and a teacher's answers as the target.

What is not here: which student (the recipe's model, or the checkpoint that a compression step begins with), and the
losses themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from runtime.errors import InvalidInput
from runtime.manifest import Kind
from runtime.text import TextEncoder
from training.distillation.losses import hidden_loss, logit_loss, relation_loss, similarity_loss, vector_loss
from training.distillation.settings import Distillation
from training.distillation.states import States
from training.distillation.teacher import Input, Teacher
from training.task import Batch, Row, Task

UNLABELLED = {"label": -100, "groups": -1}  # what a row without a label has for one
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Pupil(nn.Module):
    """A student in training, with what only the lesson needs: projections of its states to the teacher's width."""

    def __init__(self, student: nn.Module, projections: nn.ModuleList) -> None:
        super().__init__()
        self.student, self.projections = student, projections

    @property
    def config(self) -> Any:
        """The student's."""
        return self.student.config

    def forward(self, *given: Tensor, **named: Tensor) -> Any:
        """The student's."""
        return self.student(*given, **named)


def distilling(
    task: Task,
    kind: Kind,
    inputs: Sequence[Input],
    further: Sequence[Input],
    teacher: Teacher,
    settings: Distillation,
    *,
    max_tokens: int,
    positive: int = 1,
    log: Callable[[str], None] = print,
) -> Task:
    """`task` with the teacher's answers as target. `inputs` are the texts or pairs of `task.train`, in its order;
    `further` are those that nobody labelled. `max_tokens` is the student's limit, `positive` its label for a match.

    The teacher's answers are asked for here, once. Draws new projections from torch's random state: seed it first.
    Raises InvalidInput: student and teacher cannot be compared as the settings ask.
    """
    everything = [*inputs, *further]
    rows = [*task.train, *_further_rows(task, further, max_tokens)]
    asked = settings.outputs or (kind == "embedding" and settings.similarity)
    if kind == "matching" and settings.similarity:
        raise InvalidInput("similarity compares the vectors of bi-encoders; this student is a pair model. Set it to 0.")
    if asked:
        answers = teacher.answers(everything, log)
        if teacher.manifest.kind != kind and positive == 0:
            answers = answers[:, ::-1].copy()
        _check_widths(task, kind, settings, answers.shape[1])
        rows = [{**row, "target": answer} for row, answer in zip(rows, answers, strict=True)]
    projections = nn.ModuleList()
    inside = None
    if settings.looks_inside:
        rows = [
            {**row, "seen": ids} for row, ids in zip(rows, _same_tokens(rows, everything, teacher, task), strict=True)
        ]
        inside = Inside(task.model, teacher, settings, projections)
    pupil = Pupil(task.model, projections)
    return replace(
        task,
        model=pupil,
        train=rows,
        collate=partial(_collate, task.collate),
        loss=partial(_loss, task, settings, kind, inside),
        groups=None,
        rates={f"student.{name}": rate for name, rate in task.rates.items()},
        save=task.save or cast(PreTrainedModel, task.model).save_pretrained,
    )


@torch.no_grad()
def _check_widths(task: Task, kind: Kind, settings: Distillation, taught: int) -> None:
    batch = task.collate(task.train[:1])
    task.model.eval()
    width = _tensor(task.model(**{name: batch[name] for name in INPUTS if name in batch})).shape[1]
    task.model.train()
    if width != taught and settings.outputs:
        raise InvalidInput(
            f"The student's vectors have {width} dimensions, the teacher's {taught}. Make the student by the step "
            "student, which keeps the dimensions, or set outputs to 0 and similarity to 1, which compares any."
        )


class Inside:
    """Compares the states of a student's pass with those of the teacher's on the same tokens."""

    def __init__(
        self, student: nn.Module, teacher: Teacher, settings: Distillation, projections: nn.ModuleList
    ) -> None:
        self._settings, self._projections = settings, projections
        self._network = teacher.network()
        watched = {"hidden": bool(settings.hidden), "attention": bool(settings.attention or settings.values)}
        try:
            self._student, self._teacher = States(student, **watched), States(self._network, **watched)
        except ValueError as error:
            raise InvalidInput(str(error)) from None
        widths = int(student.config.hidden_size), int(self._network.config.hidden_size)
        if settings.hidden:
            self._map = (0, *_layer_map(settings.layer_map, self._student.layers, self._teacher.layers))
            projections.extend(
                nn.Identity() if widths[0] == widths[1] else nn.Linear(*widths) for _ in range(len(self._map))
            )
        self._heads = settings.relation_heads or self._teacher.heads
        if watched["attention"] and any(width % self._heads for width in widths):
            raise InvalidInput(
                f"relation_heads {self._heads} must divide the widths {widths[0]} (student) and {widths[1]} (teacher)."
            )

    def loss(self, batch: Batch) -> Tensor:
        """What the student's pass, just made, lacks: ()."""
        mask = batch["attention_mask"]
        with torch.no_grad():
            self._network(**{name: batch[name] for name in INPUTS if name in batch} | {"input_ids": batch["seen"]})
        total = mask.new_zeros((), dtype=torch.float32)
        if self._settings.hidden:
            each = [
                hidden_loss(project(state), self._teacher.hidden[layer], mask)
                for project, state, layer in zip(self._projections, self._student.hidden, self._map, strict=True)
            ]
            total = total + self._settings.hidden * torch.stack(each).mean()
        for weight, one, other in (
            (self._settings.attention, "query", "key"),
            (self._settings.values, "value", "value"),
        ):
            if weight:
                student, taught = (
                    (each[one], each[other]) for each in (self._student.attention, self._teacher.attention)
                )
                total = total + weight * relation_loss(student, taught, mask, self._heads)
        return total


def _loss(
    task: Task, settings: Distillation, kind: Kind, inside: Inside | None, model: nn.Module, batch: Batch
) -> tuple[Tensor | None, Tensor]:
    """The loss of a training batch; a validation batch, which has no target, gets the task's own."""
    given = {name: batch[name] for name in INPUTS if name in batch}
    if not {"target", "seen"} & batch.keys():
        return _own_loss(task, model, batch)
    outputs = _tensor(model(**given))
    total = outputs.new_zeros(())
    if settings.outputs and kind == "matching":
        total = total + settings.outputs * logit_loss(outputs, batch["target"], settings.temperature)
    elif settings.outputs:
        total = total + settings.outputs * vector_loss(outputs, batch["target"])
    if settings.similarity:
        total = total + settings.similarity * similarity_loss(outputs, batch["target"])
    if inside:
        total = total + inside.loss(batch)
    if settings.labels:
        mark = "groups" if "groups" in batch else "labels"
        labelled = batch[mark] >= 0
        if labelled.any():
            # The task's own loss, on what is computed already.
            rows = {name: batch[name][labelled] for name in (*given, mark)}
            own, _ = _own_loss(task, lambda *_, **__: outputs[labelled], rows)
            assert own is not None  # rows with a label
            total = total + settings.labels * own
    return total, outputs


def _own_loss(task: Task, model: Callable[..., Any], batch: Batch) -> tuple[Tensor | None, Tensor]:
    if task.loss:
        return task.loss(cast(nn.Module, model), batch)
    logits = _tensor(model(**{name: batch[name] for name in INPUTS if name in batch}))
    return cross_entropy(logits, batch["labels"]), logits


def _tensor(output: Any) -> Tensor:
    found: Tensor = getattr(output, "logits", output)
    return found


def _collate(collate: Callable[[Sequence[Row]], Batch], batch: Sequence[Row]) -> Batch:
    added = {"target", "seen"}
    made = collate([{name: value for name, value in row.items() if name not in added} for row in batch])
    if "target" in batch[0]:
        made["target"] = torch.from_numpy(np.stack([row["target"] for row in batch]))
    if "seen" in batch[0]:
        made["seen"] = torch.zeros_like(made["input_ids"])
        for index, row in enumerate(batch):
            made["seen"][index, : len(row["seen"])] = torch.tensor(row["seen"])
    return made


def _further_rows(task: Task, further: Sequence[Input], max_tokens: int) -> list[Row]:
    """Rows like those of `task.train`, without a label."""
    tokenizer = Tokenizer.from_str(task.tokenizer.backend_tokenizer.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    encoded = TextEncoder(tokenizer, max_tokens).encode(further)
    keys = task.train[0].keys()
    return [
        {name: value for name, value in {"ids": item.ids, "types": item.type_ids, **UNLABELLED}.items() if name in keys}
        for item in encoded
    ]


def _same_tokens(rows: Sequence[Row], inputs: Sequence[Input], teacher: Teacher, task: Task) -> list[tuple[int, ...]]:
    """The teacher's ids for each row. Raises InvalidInput where a row is not the very same tokens to both."""
    theirs = teacher.encode(inputs)
    student, taught = task.tokenizer.backend_tokenizer, teacher.tokenizer
    names: dict[tuple[int, int], bool] = {}

    def same(ours: int, other: int) -> bool:
        if (ours, other) not in names:
            names[ours, other] = student.id_to_token(ours) == taught.id_to_token(other)
        return names[ours, other]

    for row, item, text in zip(rows, theirs, inputs, strict=True):
        if len(row["ids"]) != len(item) or not all(map(same, row["ids"], item.ids)):
            raise InvalidInput(
                f"Student and teacher cut {str(text)[:60]!r} into different tokens: their states are not comparable. "
                "Give the student the teacher's tokenizer and max_tokens, or set hidden, attention and values to 0."
            )
    return [item.ids for item in theirs]


def _layer_map(given: Sequence[int] | None, student: int, teacher: int) -> tuple[int, ...]:
    """The teacher's layer, counted from 1, for each of the student's. Raises InvalidInput."""
    if given is None:
        if student > teacher:
            raise InvalidInput(f"The student has {student} layers and the teacher {teacher}: say which with layer_map.")
        return tuple(round(layer * teacher / student) for layer in range(1, student + 1))
    if len(given) != student or any(a >= b for a, b in pairwise(given)) or not 1 <= given[0] <= given[-1] <= teacher:
        raise InvalidInput(
            f"layer_map {list(given)}: the student has {student} layers, so give {student} of the teacher's "
            f"1 … {teacher}, each larger than the one before."
        )
    return tuple(given)
