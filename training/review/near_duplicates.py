"""Texts that are almost the same, in any script: by MinHash over character n-grams (Broder 1997), and among close
neighbours by their vectors. Strict on purpose, numbers included: "card 12" is not "card 13".
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
SAME_SHINGLES = 0.8  # Jaccard similarity from which two texts count as one
SAME_MEANING, SOME_SHINGLES = 0.95, 0.5  # or: cosine of their vectors, with at least so many shingles in common
NEIGHBOURS = 5
HASHES, BANDS = 128, 32  # pairs of Jaccard 0.8 share a band of 4 hashes all but surely, of 0.3 in a fifth of the cases
PRIME = (1 << 32) + 15
IDEOGRAPH = "\u2e80"  # from here on a character is about a word
BLOCK = 1024
_WORDS = re.compile(r"[\W_]+")


def normalise(text: str) -> str:
    """Compatibility forms (full-width letters too), case, punctuation and blanks made alike."""
    return _WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def shingles(text: str) -> frozenset[str]:
    """Character trigrams of a normalised text, bigrams where most characters are ideographs."""
    wide = sum(character >= IDEOGRAPH for character in text)
    size = 2 if 2 * wide > len(text) else 3
    return frozenset(text[start : start + size] for start in range(max(len(text) - size + 1, 1)))


def groups(texts: Sequence[str], vectors: F32) -> npt.NDArray[np.int64]:
    """T texts and their vectors (T, E) of length 1 -> (T,): the same number for texts that are almost the same."""
    normal = [normalise(text) or text for text in texts]
    grams = [shingles(text) for text in normal]
    numbers = [re.findall(r"\d+", text) for text in normal]
    group = list(range(len(texts)))

    def root(place: int) -> int:
        while group[place] != place:
            group[place] = group[group[place]]
            place = group[place]
        return place

    def join(one: int, other: int, least: float) -> None:
        if numbers[one] == numbers[other] and _jaccard(grams[one], grams[other]) >= least:
            group[max(root(one), root(other))] = min(root(one), root(other))

    for one, other in _buckets(normal):
        join(one, other, 0.0)
    for one, other in _minhash_candidates(grams):
        join(one, other, SAME_SHINGLES)
    for one, other in _near_vectors(vectors):
        join(one, other, SOME_SHINGLES)
    return np.array([root(place) for place in range(len(texts))], np.int64)


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other)


def _buckets(keys: Iterable[object]) -> Iterator[tuple[int, int]]:
    """Each place with the first and with the last before it that has the same key: enough to join them all, and not
    quadratic."""
    first: dict[object, int] = {}
    last: dict[object, int] = {}
    for place, key in enumerate(keys):
        if key in first:
            yield first[key], place
            if last[key] != first[key]:
                yield last[key], place
        first.setdefault(key, place)
        last[key] = place


def _minhash_candidates(grams: Sequence[frozenset[str]]) -> set[tuple[int, int]]:
    if not grams:
        return set()
    hashes = np.array([zlib.crc32(gram.encode()) for each in grams for gram in sorted(each)], np.uint64)
    starts = np.cumsum([0] + [len(each) for each in grams[:-1]])
    random = np.random.default_rng(0)
    factors, shifts = random.integers(1, 1 << 31, HASHES, np.uint64), random.integers(0, 1 << 32, HASHES, np.uint64)
    signature = np.stack(
        [
            np.minimum.reduceat((hashes * factor + shift) % np.uint64(PRIME), starts)
            for factor, shift in zip(factors, shifts, strict=True)
        ],
        axis=1,
    )  # (T, HASHES)
    bands = np.split(signature, BANDS, axis=1)
    return {pair for band in bands for pair in _buckets(row.tobytes() for row in band)}


def _near_vectors(vectors: F32) -> Iterator[tuple[int, int]]:
    for start in range(0, len(vectors), BLOCK):
        near = vectors[start : start + BLOCK] @ vectors.T  # (B, T)
        near[np.arange(len(near)), start + np.arange(len(near))] = -1
        count = min(NEIGHBOURS, near.shape[1])
        best = np.argpartition(near, -count, axis=1)[:, -count:]
        for row, column in zip(*np.nonzero(np.take_along_axis(near, best, 1) >= SAME_MEANING), strict=True):
            yield start + int(row), int(best[row, column])


def repeats(keys: Sequence[tuple[int, int]]) -> dict[tuple[int, int], list[int]]:
    """Pairs of text groups -> the rows that have them, where there is more than one."""
    rows: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        rows[key].append(row)
    return {key: found for key, found in rows.items() if len(found) > 1}
