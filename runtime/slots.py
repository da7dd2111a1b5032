"""The slots of a KV cache: which are running, and what the others still hold. Decides copies; computes nothing.

Running sequences lie in slots 0..n-1. A slot that becomes free keeps its prompt's keys and values until it is needed,
least recently used first, so that a later prompt which begins alike need not compute them again.

Only positions that a prefill computed are reused. A decode step computes a single token a row, which kernels may round
otherwise: reusing those would let an answer depend on what was cached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.contract import I64, GenerationBackend

# A call of one token may round otherwise than one of several: neither reused nor left over, unless it is all there is.
LEAST_CALL = 2


@dataclass(slots=True)
class _Slot:
    prefix: I64  # tokens whose keys and values a prefill computed
    length: int = 0  # tokens that matter: of a running sequence all, of a free slot its prefix
    used: int = 0  # when, on the clock of claims


class Slots:
    """See the module. `running` is n."""

    def __init__(self, backend: GenerationBackend) -> None:
        self._backend = backend
        self._slots = [_Slot(np.empty(0, np.int64)) for _ in range(backend.slots)]
        self._clock = 0
        self.running = 0

    @property
    def free(self) -> int:
        """Slots that no sequence runs in."""
        return len(self._slots) - self.running

    def claim(self, prompt: Sequence[int], *, reuse: bool = True) -> tuple[int, int]:
        """A free slot for `prompt`, and how many of its first tokens lie there already."""
        wanted = np.asarray(prompt, np.int64)
        most = max(len(prompt) - LEAST_CALL, 0) if reuse else 0
        common = [min(_common(slot.prefix, wanted), most) for slot in self._slots]
        # Of equals a free slot: what is there need not be copied.
        best = max(range(len(common)), key=lambda index: (common[index], index >= self.running))
        length = common[best] if common[best] >= LEAST_CALL else 0
        target = self._victim()
        if length:
            self._touch(best)
            if best >= self.running and length == len(self._slots[best].prefix):
                target = best  # continued where it lies: nothing of it is lost
            elif best != target:
                self._backend.move(best, target, length)
        self._hold(target, wanted[:length])
        return target, length

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        """A prefill has added `tokens` to a claimed slot."""
        self._hold(slot, np.concatenate([self._slots[slot].prefix, np.asarray(tokens, np.int64)]))

    def forget(self, slot: int) -> None:
        """What a slot holds is not known: a call failed."""
        self._hold(slot, np.empty(0, np.int64))

    def run(self, slot: int) -> None:
        """A claimed slot begins to run: it becomes the last of the running ones."""
        self._swap(slot, self.running)
        self.running += 1

    def fork(self, slot: int) -> None:
        """Another sequence begins to run, with what `slot`, which runs, holds."""
        target, source = self._victim(), self._slots[slot]
        self._backend.move(slot, target, source.length)
        self._hold(target, source.prefix)
        self.run(target)

    def grow(self) -> None:
        """A decode step has added a token to each running slot."""
        for slot in self._slots[: self.running]:
            slot.length += 1

    def release(self, slot: int) -> None:
        """The sequence in `slot` is over; the last running one takes its place."""
        self._slots[slot].length = len(self._slots[slot].prefix)
        self.running -= 1
        self._swap(slot, self.running)

    def lengths(self) -> I64:
        """Tokens in each running slot (n,)."""
        return np.asarray([slot.length for slot in self._slots[: self.running]], np.int64)

    def _victim(self) -> int:
        return min(range(self.running, len(self._slots)), key=lambda index: self._slots[index].used)

    def _hold(self, slot: int, prefix: I64) -> None:
        self._slots[slot].prefix, self._slots[slot].length = prefix, len(prefix)
        self._touch(slot)

    def _touch(self, slot: int) -> None:
        self._clock += 1
        self._slots[slot].used = self._clock

    def _swap(self, one: int, other: int) -> None:
        if one == other:
            return
        a, b = self._slots[one], self._slots[other]
        if length := max(a.length, b.length):
            self._backend.swap(one, other, length)
        self._slots[one], self._slots[other] = b, a


def _common(one: I64, other: I64) -> int:
    """Length of the longest common beginning."""
    shorter = min(len(one), len(other))
    differ = np.flatnonzero(one[:shorter] != other[:shorter])
    return int(differ[0]) if len(differ) else shorter
