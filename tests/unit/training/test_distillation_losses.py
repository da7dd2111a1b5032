"""Each loss is zero for the teacher's equal, positive for others, blind to padding, and moves the student alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from training.distillation.losses import hidden_loss, logit_loss, relation_loss, similarity_loss, vector_loss

pytestmark = pytest.mark.unit
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[int, ...]]] = {
    "logits": (lambda a, b: logit_loss(a, b, 2.0), (5, 3)),
    "vectors": (vector_loss, (5, 8)),
    "similarity": (similarity_loss, (5, 8)),
    "hidden": (lambda a, b: hidden_loss(a, b, MASK), (2, 4, 8)),
    "attention": (lambda a, b: relation_loss((a, a.flip(2)), (b, b.flip(2)), MASK, 2), (2, 4, 8)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_zero_for_the_teacher_itself_and_moves_only_the_student(name: str) -> None:
    loss, shape = LOSSES[name]
    student, teacher = drawn(*shape).requires_grad_(), drawn(*shape, seed=2).requires_grad_()
    assert loss(teacher, teacher).item() == pytest.approx(0, abs=1e-6)
    begun = loss(student, teacher)
    begun.backward()
    assert begun.item() > 0.01
    assert teacher.grad is None
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    with torch.no_grad():
        assert loss(student - 0.1 * student.grad, teacher) < begun


@pytest.mark.parametrize("name", ["hidden", "attention"])
def test_padding_does_not_count(name: str) -> None:
    loss, shape = LOSSES[name]
    student, teacher = drawn(*shape), drawn(*shape, seed=2)
    expected = loss(student, teacher)
    for tensor, value in ((student, 7.0), (teacher, -5.0)):
        tensor[0, 3] = value
        assert loss(student, teacher).item() == pytest.approx(expected.item(), rel=1e-5)


def test_relations_and_similarities_compare_widths_that_differ() -> None:
    student, teacher = drawn(2, 4, 4), drawn(2, 4, 8)
    assert torch.isfinite(relation_loss((student, student), (teacher, teacher), MASK, 2))
    assert similarity_loss(drawn(5, 4), drawn(5, 8)) > 0


def test_vectors_and_similarities_ignore_length_and_similarities_rotation() -> None:
    vectors = drawn(5, 8)
    turn, _ = torch.linalg.qr(drawn(8, 8, seed=3))
    assert vector_loss(vectors * 3, vectors).item() == pytest.approx(0, abs=1e-6)
    assert similarity_loss(vectors @ turn, vectors).item() == pytest.approx(0, abs=1e-6)
    assert vector_loss(vectors @ turn, vectors) > 0.1


def test_a_high_temperature_compares_logits_themselves() -> None:
    """Hinton et al., section 2.1: at high temperatures it is the squared difference of centred logits over 2 C."""
    student, teacher = drawn(6, 3), drawn(6, 3, seed=2)
    centred = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    expected = centred.square().sum(1).mean() / (2 * 3)
    assert logit_loss(student.double(), teacher.double(), 1e3).item() == pytest.approx(expected.item(), rel=1e-2)
