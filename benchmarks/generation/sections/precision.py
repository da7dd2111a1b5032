"""What int8 costs in quality: perplexity of the trained model on text that it has not seen, through the runtime that is
served, fp32 and int8. What it gains in speed stands in the rows of `decode`."""

from __future__ import annotations

import math
from pathlib import Path

from benchmarks.figures import Result
from benchmarks.generation.bench import GenerationBench
from benchmarks.generation.prompts import TEXT
from runtime.generation import GenerationEngine
from runtime.load import load_engine

HELD_OUT = 0.05  # the recipe's `test_share`: the end of the text
PRECISIONS = ("fp32", "int8")


def estimate_s(bench: GenerationBench) -> float:
    """Two small models over 50,000 characters."""
    return 30


def measure(bench: GenerationBench) -> Result:
    """Perplexity of both artifacts and the relative difference."""
    whole = TEXT.read_text(encoding="utf-8")
    text = whole[int(len(whole) * (1 - HELD_OUT)) :]
    found = {precision: perplexity(bench.trained / precision, text) for precision in PRECISIONS}
    tokens = {count for _, count in found.values()}
    return {
        "what": f"perplexity on the last {HELD_OUT:.0%} of {TEXT}, in windows of the model's context",
        "trained": str(bench.trained),
        "tokens": tokens.pop(),
        "perplexity": {precision: value for precision, (value, _) in found.items()},
        "worse_by": found["int8"][0] / found["fp32"][0] - 1,
    }


def perplexity(artifact: Path, text: str) -> tuple[float, int]:
    """exp of the mean negative log-probability of a token, and how many tokens were predicted."""
    engine = load_engine(artifact)
    assert isinstance(engine, GenerationEngine)
    try:
        ids = engine.encode(text)
        windows = [ids[start : start + engine.context] for start in range(0, len(ids), engine.context)]
        found = [value for window in windows if len(window) > 1 for value in engine.log_probs(window)]
    finally:
        engine.close()
    return math.exp(-sum(found) / len(found)), len(found)
