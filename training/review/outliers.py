"""Texts that are far from all others: of another subject, another language, or no text at all."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
NEAREST = 10
FAR = 5.0  # robust standard deviations below the median
BLOCK = 1024


def outliers(vectors: F32) -> dict[int, float]:
    """T vectors (T, E) of length 1 -> place of each outlier and its mean cosine to its NEAREST neighbours.

    Far is what lies more than FAR robust standard deviations (1.4826 times the median absolute deviation) below the
    median of these means. Fewer than 2 * NEAREST texts have no outliers.
    """
    if len(vectors) < 2 * NEAREST:
        return {}
    means = np.concatenate([_means(vectors, start) for start in range(0, len(vectors), BLOCK)])
    middle = float(np.median(means))
    spread = 1.4826 * float(np.median(np.abs(means - middle)))
    far = np.flatnonzero(means < middle - FAR * max(spread, 1e-6))
    return {int(place): float(means[place]) for place in far}


def _means(vectors: F32, start: int) -> npt.NDArray[np.float32]:
    near = vectors[start : start + BLOCK] @ vectors.T
    near[np.arange(len(near)), start + np.arange(len(near))] = -1  # itself
    return np.asarray(np.partition(near, -NEAREST, axis=1)[:, -NEAREST:].mean(1))
