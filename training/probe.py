"""What a compression step is judged on: texts for parity and latency, and how quality is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.contract import Pair, Sampling
from runtime.encoder import EncoderEngine
from runtime.generation import GenerationEngine
from runtime.load import load_engine
from runtime.text import load_tokenizer
from training.data.splits import PairSplits, load_splits
from training.evaluate import evaluate_split
from training.recipe import Recipe

Engine = EncoderEngine | GenerationEngine
PROBE_PAIRS = 64
PROBE_TEXT_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Probe:
    """What a step is judged on: texts for parity and latency, and how quality is measured (None: it is not)."""

    texts: Sequence[str]
    quality: Callable[[Engine], dict[str, float]] | None = None

    @property
    def pairs(self) -> list[Pair]:
        """Neighbouring texts as pairs."""
        return [Pair(a, b) for a, b in zip(self.texts[::2], self.texts[1::2], strict=False)]


def recipe_probe(recipe: Recipe) -> Probe:
    """A probe all from valid: test is for the finished artifact. Raises DataError."""
    splits = load_splits(recipe)
    if isinstance(splits, PairSplits):
        texts = [text for row in splits.valid[:PROBE_PAIRS] for text in (row.text_a, row.text_b)]
    else:
        whole = "\n".join(splits.texts("valid"))
        starts = range(0, min(len(whole), PROBE_PAIRS * PROBE_TEXT_CHARACTERS), PROBE_TEXT_CHARACTERS)
        texts = [whole[start : start + PROBE_TEXT_CHARACTERS] for start in starts]
    return Probe(texts=texts, quality=lambda engine: evaluate_split(engine, splits, "valid").metrics)


def vocabulary_texts(directory: Path, count: int = 64, seed: int = 7) -> list[str]:
    """Random texts made of the artifact's own vocabulary, for a model that comes without data."""
    tokenizer = load_tokenizer(directory / "tokenizer.json")
    random = np.random.default_rng(seed)
    ids = random.integers(0, tokenizer.get_vocab_size(), (count, 24))
    return [tokenizer.decode(row[: random.integers(4, 25)].tolist()) or "a" for row in ids]


def sampled_texts(directory: Path, count: int = 8, seed: int = 7) -> list[str]:
    """Texts that a language model itself finds likely: perplexity on random tokens would say nothing of its quality."""
    engine = load_engine(directory)
    assert isinstance(engine, GenerationEngine)
    tokens = min(128, engine.context // 2)
    streams = [engine.generate("", Sampling(max_tokens=tokens, seed=seed + number)) for number in range(count)]
    texts = ["".join(event.text for event in stream) for stream in streams]
    engine.close()
    return [text for text in texts if text.strip()] or ["a"]
