"""A backend without weights, for tests, dry runs of load tests and front-end work. Deterministic, with knobs.

Matching scores a pair by the overlap of its lower-cased words (Jaccard), embedding hashes the words into a vector; a
row that contains POISON raises.
Generation repeats TALE, byte by byte, from wherever the sequence is.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from runtime.contract import F32, I64
from runtime.errors import ArtifactRefused
from runtime.manifest import CausalShape, Kind, Manifest, write_manifest

POISON = "<poison>"
TALE = "a sluice lets through what is asked for, no more and no less. "
END, SEPARATOR = 256, 257
VOCABULARY = 258
FAKE_DIMENSIONS = 64
SETTINGS_FILE = "fake.json"


class FakeSettings(BaseModel):
    """Knobs: seconds that each batch or step takes, and how many tokens a generation cache row has."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    latency_s: float = Field(default=0.0, ge=0)
    max_tokens: int = Field(default=256, gt=3)


def write_fake_artifact(directory: Path, kind: Kind, **settings: float) -> Manifest:
    """Make a complete artifact of format "fake" in `directory`. `settings`: those of FakeSettings."""
    directory.mkdir(parents=True, exist_ok=True)
    knobs = FakeSettings.model_validate(settings)
    (directory / SETTINGS_FILE).write_text(knobs.model_dump_json(), encoding="utf-8")
    byte_tokenizer(pairs=kind != "generation").save(str(directory / "tokenizer.json"))
    shape = CausalShape(
        layers=1, kv_heads=1, head_dim=16, vocab_size=VOCABULARY, eos_token_ids=(END,), bos_token_id=END
    )
    return write_manifest(
        directory,
        kind=kind,
        format="fake",
        architecture="fake",
        precision="fp32",
        max_tokens=knobs.max_tokens,
        labels=("different", "same") if kind == "matching" else (),
        positive_label=1 if kind == "matching" else None,
        threshold=None if kind == "generation" else 0.5,
        dimensions=FAKE_DIMENSIONS if kind == "embedding" else None,
        causal=shape if kind == "generation" else None,
    )


def read_settings(directory: Path) -> FakeSettings:
    """The knobs of a fake artifact."""
    try:
        return FakeSettings.model_validate(json.loads((directory / SETTINGS_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ArtifactRefused(f"{directory / SETTINGS_FILE} cannot be read: {error}") from None


def byte_tokenizer(*, pairs: bool) -> Tokenizer:
    """One token a byte: id = byte value."""
    # ByteLevel maps each byte to a printable character; `bytes_char` order is by code point, ours is by byte value.
    printable = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255]
    others = [b for b in range(256) if b not in printable]
    characters = {b: chr(b) for b in printable} | {b: chr(256 + place) for place, b in enumerate(others)}
    vocabulary = {character: byte for byte, character in characters.items()} | {"<end>": END, "<sep>": SEPARATOR}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    # Cut into words: the library keeps thousands of words that it has seen, and whole texts would be much memory.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if pairs:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A", pair="$A <sep> $B:1", special_tokens=[("<sep>", SEPARATOR)]
        )
    return tokenizer


def _words(ids: I64) -> set[str]:
    words = set(bytes(int(i) for i in ids if i < END).decode("utf-8", "replace").lower().split())
    if any(POISON in word for word in words):
        raise RuntimeError("this row is poison")
    return words


class FakeMatching:
    """Scores by word overlap; see the module."""

    clock = staticmethod(time.monotonic)

    def __init__(self, directory: Path) -> None:
        self._settings = read_settings(directory)

    def forward(self, input_ids: I64, attention_mask: I64, token_type_ids: I64, *, alone: bool = False) -> F32:
        """(B, T) each -> (B, 2)."""
        time.sleep(self._settings.latency_s)
        rows = []
        for ids, mask, types in zip(input_ids, attention_mask, token_type_ids, strict=True):
            a, b = (_words(ids[(mask == 1) & (types == side)]) for side in (0, 1))
            overlap = len(a & b) / max(len(a | b), 1)
            rows.append((0.0, 8 * (overlap - 0.5)))
        return np.asarray(rows, np.float32)


class FakeEmbedding:
    """A word is a direction, a text the sum of its words; see the module."""

    clock = staticmethod(time.monotonic)

    def __init__(self, directory: Path) -> None:
        self._settings = read_settings(directory)

    def forward(self, input_ids: I64, attention_mask: I64, token_type_ids: I64, *, alone: bool = False) -> F32:
        """(B, T) each -> (B, FAKE_DIMENSIONS)."""
        time.sleep(self._settings.latency_s)
        vectors = np.zeros((len(input_ids), FAKE_DIMENSIONS), np.float32)
        for vector, ids, mask in zip(vectors, input_ids, attention_mask, strict=True):
            for word in _words(ids[mask == 1]):
                vector[zlib.crc32(word.encode()) % FAKE_DIMENSIONS] += 1
        return vectors


class FakeGeneration:
    """Repeats TALE; see the module."""

    def __init__(self, directory: Path, *, slots: int, context: int) -> None:
        self.slots, self.context, self.vocab_size, self.whole_prompts = slots, context, VOCABULARY, False
        self._settings = read_settings(directory)

    def prefill(self, slot: int, ids: Sequence[int], start: int = 0, all_logits: bool = False) -> F32:
        """Logits that all but decide for the next byte of TALE."""
        time.sleep(self._settings.latency_s)
        ends = range(start + 1, start + len(ids) + 1) if all_logits else [start + len(ids)]
        return np.stack([self._row(length) for length in ends])

    def decode(self, tokens: I64, lengths: I64) -> F32:
        """The same, one row a slot."""
        time.sleep(self._settings.latency_s)
        return np.stack([self._row(int(length) + 1) for length in lengths])

    def move(self, source: int, target: int, length: int) -> None:
        """Nothing is kept a slot, so nothing moves."""

    def swap(self, one: int, other: int, length: int) -> None:
        """Nor is anything exchanged."""

    def _row(self, length: int) -> F32:
        row = np.zeros(VOCABULARY, np.float32)
        row[ord(TALE[length % len(TALE)])] = 20.0
        return row
