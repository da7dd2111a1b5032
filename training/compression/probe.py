"""What compressed models are judged and timed on: texts, and the one pair whose latency is measured."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.contract import Pair, Sampling
from runtime.generation import GenerationEngine
from runtime.load import load_engine
from runtime.manifest import read_manifest
from runtime.text import TextEncoder, load_tokenizer, pair_name
from training.data.splits import ExampleSplits, PairSplits, Splits

PROBE_PAIRS = 64
PROBE_TEXT_CHARACTERS = 200
TIMED_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Probe:
    """Texts for parity, and for an encoder what is timed: a pair of 32 tokens of the model that all begins with.

    The same text is timed for all its descendants: one whose tokenizer needs more tokens for it pays for that.
    """

    texts: Sequence[str]
    timed: Pair | None = None
    targets: Sequence[str] = ()  # of an encoder-decoder, one a text

    @property
    def pairs(self) -> list[Pair]:
        """Neighbouring texts as pairs."""
        return [Pair(a, b) for a, b in zip(self.texts[::2], self.texts[1::2], strict=False)]


def make_probe(checkpoint: Path, texts: Sequence[str]) -> Probe:
    """Of a bi-encoder, which computes a text that occurs twice once, a text with itself is timed."""
    manifest = read_manifest(checkpoint)
    if manifest.causal and manifest.causal.has_source:
        return Probe(texts, targets=texts[::-1])
    if manifest.kind == "generation":
        return Probe(texts)
    encoder = TextEncoder(load_tokenizer(checkpoint / manifest.tokenizer), manifest.max_tokens, manifest.pad_token_id)
    whole = " ".join(texts)
    half = len(whole) // 2

    def pair(characters: int) -> Pair:
        start = 0 if manifest.kind == "embedding" else half
        return Pair(whole[:characters], whole[start : start + characters])

    def tokens(characters: int) -> int:
        item = pair(characters)
        inputs = [item.text_a] if manifest.kind == "embedding" else [item]
        return len(encoder.encode(inputs, truncate=True, side="right", name=pair_name)[0])

    return Probe(texts, pair(1 + bisect_left(range(1, half), min(TIMED_TOKENS, manifest.max_tokens), key=tokens)))


def split_probe(checkpoint: Path, splits: Splits) -> Probe:
    """A probe all from valid: test is for the finished artifact."""
    if isinstance(splits, PairSplits):
        return make_probe(checkpoint, [text for row in splits.valid[:PROBE_PAIRS] for text in (row.text_a, row.text_b)])
    if isinstance(splits, ExampleSplits):
        rows = splits.valid[:PROBE_PAIRS]
        return Probe([row.source for row in rows], targets=[row.target for row in rows])
    whole = "\n".join(splits.texts("valid"))
    starts = range(0, min(len(whole), PROBE_PAIRS * PROBE_TEXT_CHARACTERS), PROBE_TEXT_CHARACTERS)
    return Probe([whole[start : start + PROBE_TEXT_CHARACTERS] for start in starts])


def vocabulary_texts(directory: Path, count: int = 64, seed: int = 7) -> list[str]:
    """Random texts made of the artifact's own vocabulary, for a model that comes without data."""
    tokenizer = load_tokenizer(directory / "tokenizer.json")
    random = np.random.default_rng(seed)
    ids = random.integers(0, tokenizer.get_vocab_size(), (count, 24))
    return [tokenizer.decode(row[: random.integers(4, 25)].tolist()) or "a" for row in ids]


def sampled_probe(directory: Path, sources: Sequence[str], count: int = 8, seed: int = 7) -> Probe:
    """Texts that a language model itself finds likely: perplexity on random tokens would say nothing of its quality.
    Those of an encoder-decoder are its targets, of the first of `sources`."""
    engine = load_engine(directory)
    assert isinstance(engine, GenerationEngine)
    tokens = min(128, engine.context // 2)
    prompts = sources[:count] if engine.has_source else [""] * count
    streams = [
        engine.generate(prompt, Sampling(max_tokens=tokens, seed=seed + number))
        for number, prompt in enumerate(prompts)
    ]
    texts = ["".join(event.text for event in stream) for stream in streams]
    engine.close()
    if engine.has_source:
        return Probe(prompts, targets=[text or "a" for text in texts])
    return Probe([text for text in texts if text.strip()] or ["a"])
