"""`python -m training.compression.memory ARTIFACT < TEXTS`: prints the peak memory of loading and scoring, in bytes.

A process of its own, because what another has loaded cannot be told apart. Imports no more than serving does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.contract import Pair
from runtime.encoder import EncoderEngine
from runtime.generation import GenerationEngine
from runtime.load import load_engine
from training.resident_memory import peak_resident_bytes


def score(directory: Path, texts: Sequence[str]) -> None:
    """Load the artifact and score neighbouring texts as pairs, or each text's tokens."""
    engine = load_engine(directory)
    if isinstance(engine, EncoderEngine):
        engine.score([Pair(a, b) for a, b in zip(texts[::2], texts[1::2], strict=False)])
    elif isinstance(engine, GenerationEngine):
        for text in texts:
            ids = engine.encode(text)[: engine.context]
            if engine.has_source:
                engine.text_log_probs([ids], [ids[: engine.room(len(ids))]])
            elif len(ids) > 1:
                engine.log_probs(ids)
    engine.close()


if __name__ == "__main__":
    score(Path(sys.argv[1]), json.load(sys.stdin))
    print(peak_resident_bytes())
