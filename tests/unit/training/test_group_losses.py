"""The losses against their formulas written out, row by row."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from training.group_losses import contrastive_loss, proxy_loss

pytestmark = pytest.mark.unit
GROUPS = [0, 1, 0, 2, 1, 0]  # group 2 stands alone


def vectors(rows: int, seed: int) -> torch.Tensor:
    """Of different length: only the direction may count."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 4, generator=generator) * torch.arange(1, rows + 1)[:, None]


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b / a.norm() / b.norm())


def test_proxy_is_the_cross_entropy_of_the_nearest_prototype() -> None:
    texts, prototypes, temperature = vectors(6, 1), vectors(3, 2), 0.2
    expected = []
    for text, group in zip(texts, GROUPS, strict=True):
        likeness = [math.exp(cosine(text, prototype) / temperature) for prototype in prototypes]
        expected.append(-math.log(likeness[group] / sum(likeness)))
    loss = proxy_loss(texts, prototypes, torch.tensor(GROUPS), temperature)
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-5)


def test_contrastive_is_the_mean_over_partners_of_who_is_picked_out() -> None:
    texts, temperature = vectors(6, 3), 0.2
    expected = []
    for one, group in enumerate(GROUPS):
        others = [other for other in range(6) if other != one]
        whole = sum(math.exp(cosine(texts[one], texts[other]) / temperature) for other in others)
        partners = [other for other in others if GROUPS[other] == group]
        terms = [math.log(whole) - cosine(texts[one], texts[other]) / temperature for other in partners]
        expected += [np.mean(terms)] if partners else []
    assert len(expected) == 5
    loss = contrastive_loss(texts, torch.tensor(GROUPS), temperature)
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-5)


def test_a_batch_without_partners_teaches_nothing_and_breaks_nothing() -> None:
    texts = vectors(3, 4).requires_grad_()
    loss = contrastive_loss(texts, torch.tensor([0, 1, 2]), 0.1)
    loss.backward()
    assert loss.item() == 0
    assert texts.grad is not None
    assert torch.equal(texts.grad, torch.zeros_like(texts))
