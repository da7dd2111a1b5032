"""Which items go into one batch. Pure: lengths in, groups out; no queue, no clock, no model.

Why at all: a padded batch costs rows x longest row. In arrival order, batches of 32 were slower than no batching at all
(docs/architecture.md); sorted by length they are the fastest.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.contract import Limits

# Rows within this share of the longest one of a batch: past it, the padding costs more than a fuller batch saves.
LENGTH_TOLERANCE = 0.05
# Below this many tokens of difference padding is cheaper than another batch.
LENGTH_SLACK = 2


def pack(lengths: Sequence[int], limits: Limits) -> list[list[int]]:
    """Split indices of `lengths` into batches for offline work: sorted by length, longest first, cut by the limits.

    A pure function of its arguments: the same list always gives the same batches, hence the same scores, bit by bit,
    also where an int8 model's activation scale depends on the neighbours. Every index appears exactly once.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[list[int]] = []
    for index in order:
        batch = batches[-1] if batches else None
        if batch is None or not _room(lengths[batch[0]], len(batch), limits):
            batches.append([index])
        else:
            batch.append(index)
    return batches


def gather(sorted_lengths: Sequence[int], anchor: int, limits: Limits) -> tuple[int, int]:
    """The slice [start, stop) around `anchor` of an ascending list that makes the best batch containing the anchor.

    Grows over the nearest lengths on either side while rows stay within LENGTH_TOLERANCE and the limits hold.
    """
    start, stop = anchor, anchor + 1
    longest = sorted_lengths[anchor]
    while _room(longest, stop - start, limits):
        left = sorted_lengths[anchor] - sorted_lengths[start - 1] if start > 0 else None
        right = sorted_lengths[stop] - sorted_lengths[anchor] if stop < len(sorted_lengths) else None
        if right is not None and (left is None or right <= left):
            wider = sorted_lengths[stop]
            if not _near(sorted_lengths[start], wider) or not _room(wider, stop - start, limits):
                break
            longest, stop = wider, stop + 1
        elif left is not None and _near(sorted_lengths[start - 1], longest):
            start -= 1
        else:
            break
    return start, stop


def _room(longest: int, rows: int, limits: Limits) -> bool:
    return rows < limits.batch_items and longest * (rows + 1) <= limits.batch_tokens


def _near(short: int, long: int) -> bool:
    return long - short <= max(LENGTH_SLACK, LENGTH_TOLERANCE * long)
