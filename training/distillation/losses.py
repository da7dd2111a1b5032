"""How far a student is from its teacher: in what it answers, in its hidden states, in where it looks.

Each is a pure function of tensors and a mean over what it compares, so that batches of any size weigh alike. The
teacher's side is a constant: no gradient flows into it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, kl_div, mse_loss, normalize


def logit_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL divergence of the classes' probabilities, both softened by `temperature`: (B, C), (B, C) -> ().

    Times the temperature squared, so that the gradients keep their size. Hinton et al., arXiv:1503.02531.
    """
    target = (teacher.detach() / temperature).log_softmax(1)
    given = (student / temperature).log_softmax(1)
    return kl_div(given, target, reduction="batchmean", log_target=True) * temperature**2


def vector_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine of each text's two vectors: (B, D), (B, D) -> (). Half the squared distance of the unit vectors."""
    return (1 - cosine_similarity(student, teacher.detach(), dim=1)).mean()


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of all cosines between the texts of a batch: (B, D), (B, D') -> ().

    Needs no common width: what is learnt is how alike texts are. Tung and Mori, arXiv:1907.09682.
    """
    student, teacher = normalize(student, dim=1), normalize(teacher.detach(), dim=1)
    return mse_loss(student @ student.T, teacher @ teacher.T)


def hidden_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Squared difference of two layers' states at the tokens of `mask` (B, T): (B, T, E), (B, T, E) -> ().

    The student's are projected to the teacher's width before. TinyBERT: Jiao et al., arXiv:1909.10351.
    """
    real = mask.bool()
    return mse_loss(student[real], teacher.detach()[real])


def relation_loss(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], mask: Tensor, heads: int) -> Tensor:
    """KL divergence of how tokens relate: softmax over a · b / sqrt(width of a head), for each head and token.

    (B, T, E) twice, (B, T, E') twice, mask (B, T) -> (). Queries and keys make the self-attention, values with
    themselves the value relation. Cut into the same number of heads, widths may differ. MiniLM: Wang et al.,
    arXiv:2002.10957 and 2012.15828.
    """
    given = _relations(*student, mask, heads)
    target = _relations(*(each.detach() for each in teacher), mask, heads)
    # Neither a padding token's view nor a view of padding counts.
    pairs = (mask[:, None, :, None] * mask[:, None, None, :]).bool()
    terms = (target.exp() * (target - given)).masked_fill(~pairs, 0)
    return terms.sum() / (mask.sum() * heads)


def _relations(a: Tensor, b: Tensor, mask: Tensor, heads: int) -> Tensor:
    """log of the distributions (B, H, T, T) over the tokens of `mask`."""
    a, b = (each.unflatten(2, (heads, -1)).transpose(1, 2) for each in (a, b))  # (B, H, T, E / H)
    scores = a @ b.transpose(2, 3) / a.shape[-1] ** 0.5
    lowest = torch.finfo(scores.dtype).min / 2
    return scores.masked_fill(~mask[:, None, None, :].bool(), lowest).log_softmax(-1)
