"""Which items go into one batch. Pure: lengths in, groups out; no queue, no clock, no model.

Why at all: a padded batch costs rows x longest row. In arrival order, batches of 32 were slower than no batching at all
(docs/architecture.md); sorted by length they are the fastest.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.contract import Limits


def pack(lengths: Sequence[int], limits: Limits) -> list[list[int]]:
    """Split indices of `lengths` into batches for offline work: sorted by length, longest first, cut by the limits.

    A pure function of its arguments: the same list always gives the same batches, hence the same scores, bit by bit,
    also where an int8 model's activation scale depends on the neighbours. Every index appears exactly once.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[list[int]] = []
    for index in order:
        batch = batches[-1] if batches else None
        if batch is None or not _room(lengths[batch[0]], len(batch), limits.batch_items, limits.batch_tokens):
            batches.append([index])
        else:
            batch.append(index)
    return batches


def gather(
    sorted_lengths: Sequence[int], anchor: int, *, items: int, tokens: int, padding_tokens: float
) -> tuple[int, int]:
    """The slice [start, stop) around `anchor` of an ascending list that makes the best batch containing the anchor.

    Grows over the nearest lengths on either side to at most `items` rows, `tokens` padded tokens and `padding_tokens`
    of padding: more padding than a batch's fixed cost, and a batch of its own is cheaper. The anchor alone is a batch
    whatever its length.
    """
    start, stop = anchor, anchor + 1
    longest = total = middle = sorted_lengths[anchor]
    while True:
        left = sorted_lengths[start - 1] if start > 0 else None
        right = sorted_lengths[stop] if stop < len(sorted_lengths) else None
        nearer_right = right is not None and (left is None or right - middle <= middle - left)
        added = right if nearer_right else left
        if added is None:
            break
        widest = max(longest, added)
        rows = stop - start + 1
        if not _room(widest, rows - 1, items, tokens) or rows * widest - (total + added) > padding_tokens:
            break
        longest, total = widest, total + added
        if nearer_right:
            stop += 1
        else:
            start -= 1
    return start, stop


def _room(longest: int, rows: int, items: int, tokens: int) -> bool:
    return rows < items and longest * (rows + 1) <= tokens
