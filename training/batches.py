"""Which rows train together, step by step: one pure function, so that a resumed run sees the same batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Rows are sorted by length within pools of this many batches: enough to leave little padding, while the composition of
# a batch still changes from epoch to epoch.
POOL_BATCHES = 32


def plan_batches(
    lengths: Sequence[int], batch_size: int, steps: int, seed: int, groups: Sequence[int] | None = None
) -> list[list[int]]:
    """`steps` batches of indices into `lengths`, rows of a batch alike in length.

    Every epoch visits each row once, in an order of its own; its last batch may be smaller. With `groups`, the group of
    each row, two rows of a group come together as long as a group has two left.
    """
    plan: list[list[int]] = []
    epoch = 0
    while len(plan) < steps:
        random = np.random.default_rng([seed, epoch])
        if groups is None:
            plan += _epoch(np.asarray(lengths), batch_size, random)
        else:
            plan += _epoch_of_twos(np.asarray(lengths), batch_size, random, np.asarray(groups))
        epoch += 1
    return plan[:steps]


def sorted_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Every row once, longest first: for validation."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def _epoch(lengths: np.ndarray, batch_size: int, random: np.random.Generator) -> list[list[int]]:
    order = random.permutation(len(lengths))
    batches: list[list[int]] = []
    pool_rows = POOL_BATCHES * batch_size
    for start in range(0, len(order), pool_rows):
        pool = order[start : start + pool_rows]
        # Stable, so rows of equal length stay in the epoch's random order.
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[at : at + batch_size].tolist() for at in range(0, len(pool), batch_size)]
    return [batches[index] for index in random.permutation(len(batches))]


def _epoch_of_twos(
    lengths: np.ndarray, batch_size: int, random: np.random.Generator, groups: np.ndarray
) -> list[list[int]]:
    order = random.permutation(len(lengths))
    by_group = order[np.argsort(groups[order], kind="stable")]
    twos: list[list[int]] = []
    for members in np.split(by_group, np.flatnonzero(np.diff(groups[by_group])) + 1):
        twos += [members[at : at + 2].tolist() for at in range(0, len(members), 2)]
    longest = np.asarray([lengths[two].max() for two in twos])
    batches = _epoch(longest, max(batch_size // 2, 1), random)
    return [[row for index in batch for row in twos[index]] for batch in batches]
