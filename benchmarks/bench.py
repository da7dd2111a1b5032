"""What every section about matching is given: the model, the texts, how long to measure."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Result
from benchmarks.texts import SAMPLES
from runtime.contract import Pair, PairResult
from runtime.load import load_engine
from runtime.matching import MatchingEngine

CLIENTS = (1, 16, 64)
PARITY_PAIRS = 16


@dataclass(frozen=True, slots=True)
class Bench:
    """`artifact`: the directory that is served, published as `tag`. `run`: the training run that it comes from, with
    checkpoint/ and fp32/. `seconds`: of each served row in each round. `scratch`: for files of this run alone."""

    artifact: Path
    tag: str
    run: Path
    pairs: list[Pair]
    rounds: int
    seconds: float
    overload_s: float
    starts: int
    scratch: Path
    files: tuple[Path, ...] = SAMPLES  # where the pairs come from

    def source(self) -> Result:
        """What was measured, for the result files."""
        texts = {"files": [str(path) for path in self.files], "distinct_pairs": len(self.pairs)}
        return {"model": self.tag, "texts": texts}


def say(line: str) -> None:
    """Progress, on stderr."""
    print(f"  {line}", file=sys.stderr, flush=True)


def alone(artifact: Path, pairs: list[Pair]) -> list[float]:
    """The scores of an artifact in process, every pair in a batch of its own."""
    engine = load_engine(artifact, threads=1)
    assert isinstance(engine, MatchingEngine)
    results = [engine.score([pair])[0] for pair in pairs]
    return [result.score for result in results if isinstance(result, PairResult)]
