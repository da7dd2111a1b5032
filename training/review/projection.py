"""The model of a fold: a linear map of frozen text vectors under which the cosine of two texts says whether they match.

    p(match) = sigmoid(scale * cos(W u, W v) + shift)

Trained with binary cross-entropy on the pairs of a fold, AdamW. Small on purpose: a model cannot judge what it has
learned by heart. Not the model that is served.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

F32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
WIDTH, BATCH_PAIRS, EPOCHS = 128, 256, 15
LEAST_STEPS, MOST_STEPS = 300, 1500
RATE, SCALE_RATE, DECAY = 1e-3, 5e-2, 1e-2


@dataclass(frozen=True, slots=True)
class Projected:
    """Text vectors of length 1 (T, WIDTH), and what makes probabilities of their cosines."""

    vectors: F32
    scale: float
    shift: float

    def scores(self, first: Ints, second: Ints) -> npt.NDArray[np.float64]:
        """p(match) of pairs of texts, (N,)."""
        cosines = (self.vectors[first] * self.vectors[second]).sum(1).astype(np.float64)
        return np.asarray(1 / (1 + np.exp(-(self.scale * cosines + self.shift))))


def project(vectors: F32, first: Ints, second: Ints, match: npt.NDArray[np.bool_], seed: int) -> Projected:
    """Train on N pairs of the T texts, given as indices, and map all T texts. The same seed gives the same map."""
    # Own generators: neither the global state nor the order of calls may decide.
    random = torch.Generator().manual_seed(seed)
    texts = torch.from_numpy(vectors)  # (T, E)
    width = min(WIDTH, texts.shape[1])
    weight = (torch.randn(texts.shape[1], width, generator=random) / texts.shape[1] ** 0.5).requires_grad_()
    line = torch.tensor([10.0, -5.0], requires_grad=True)  # scale, shift
    rates = [RATE, SCALE_RATE]
    optimizer = torch.optim.AdamW(
        [{"params": [weight], "weight_decay": DECAY}, {"params": [line], "weight_decay": 0.0}], lr=RATE
    )
    one, other, truth = torch.from_numpy(first), torch.from_numpy(second), torch.from_numpy(match).float()
    steps = int(np.clip(EPOCHS * len(first) / BATCH_PAIRS, LEAST_STEPS, MOST_STEPS))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, steps)
    for batch in _batches(len(first), steps, random):
        u, v = (normalize(texts[side[batch]] @ weight, dim=1) for side in (one, other))  # (B, width) each
        logits = line[0] * (u * v).sum(1) + line[1]
        optimizer.zero_grad()
        binary_cross_entropy_with_logits(logits, truth[batch]).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        mapped = normalize(texts @ weight, dim=1).numpy()
    return Projected(mapped, *(float(value) for value in line.detach()))


def _batches(rows: int, steps: int, random: torch.Generator) -> Iterator[torch.Tensor]:
    done = 0
    while done < steps:
        for batch in torch.randperm(rows, generator=random).split(BATCH_PAIRS):
            if done == steps:
                return
            yield batch
            done += 1
