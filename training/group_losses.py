"""Losses on cosines that pull texts of one group together and push groups apart."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


def proxy_loss(vectors: Tensor, prototypes: Tensor, groups: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each text's group, chosen by its cosine with one trained vector a group.

    vectors (B, D), prototypes (G, D), groups (B,) -> (). Normalised softmax: Zhai and Wu, arXiv:1811.12649.
    """
    cosines = normalize(vectors, dim=1) @ normalize(prototypes, dim=1).T  # (B, G)
    return cross_entropy(cosines / temperature, groups)


def contrastive_loss(vectors: Tensor, groups: Tensor, temperature: float) -> Tensor:
    """How far each text of a batch is from picking out the others of its group among all others by cosine.

    vectors (B, D), groups (B,) -> (); texts alone in their group have no term, only a place among the others. L_out of
    Khosla et al., arXiv:2004.11362.
    """
    units = normalize(vectors, dim=1)
    itself = torch.eye(len(units), dtype=torch.bool, device=units.device)
    likeness = (units @ units.T / temperature).masked_fill(itself, float("-inf"))  # (B, B)
    log_share = likeness - likeness.logsumexp(1, keepdim=True)
    same = (groups[:, None] == groups[None]) & ~itself
    partners = same.sum(1)
    terms = -log_share.masked_fill(~same, 0).sum(1) / partners.clamp(min=1)
    return terms.sum() / (partners > 0).sum().clamp(min=1)
