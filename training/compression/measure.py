"""What an artifact's step cost and gained, measured through the engine that serves it: outputs beside the parent's,
latency, quality, memory."""

from __future__ import annotations

import json
import os
import queue
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.contract import Event, Finish, Sampling, Token
from runtime.encoder import EncoderEngine
from runtime.errors import InvalidInput, SluiceError
from runtime.generation import GenerationEngine
from runtime.manifest import Parity
from training.compression.probe import Probe
from training.compression.step import Comparison
from training.data.splits import PairSplits, Splits
from training.evaluate import as_pairs, evaluate_split, score_pairs
from training.example_quality import example_ids
from training.metrics import agreeing_threshold, best_threshold, matching_metrics

Engine = EncoderEngine | GenerationEngine
LATENCY_RUNS = 40
ROUNDS, ROUND_RUNS = 12, 8  # of interleaved measuring
WARM_UP_S = 0.3
ROOT = Path(__file__).parents[2]
COMPARED = {"matching": "score", "embedding": "cosine", "generation": "log p"}


@dataclass(frozen=True, slots=True)
class Quality:
    """On valid, at the threshold (None: generation) that was chosen there."""

    metrics: dict[str, float]
    threshold: float | None = None


def quality_on_valid(engine: Engine, splits: Splits, parent: Engine | None = None) -> Quality:
    """Matching and embedding: a threshold, and the figures there; generation: perplexity.

    The threshold is the one with the highest F1; of an artifact that stands for its `parent`, the one at which it
    decides most like the parent at the parent's own.
    Raises InvalidInput when all labels of valid are the same.
    """
    if not isinstance(engine, EncoderEngine) or not isinstance(splits, PairSplits):
        return Quality(dict(evaluate_split(engine, splits, "valid").metrics))
    pairs, truth = as_pairs(splits.valid, splits.positive)
    scores = score_pairs(engine, pairs)
    inherited = None
    if isinstance(parent, EncoderEngine) and parent.manifest.threshold is not None:
        inherited = agreeing_threshold(scores, score_pairs(parent, pairs), parent.manifest.threshold)
    try:
        threshold = best_threshold(scores, truth) if inherited is None else inherited
        return Quality(matching_metrics(scores, truth, threshold), threshold)
    except ValueError as error:
        raise InvalidInput(f"valid: {error}") from None


def compare(before: Engine, after: Engine, probe: Probe, how: Comparison, tolerance: float) -> Parity:
    """The distance of `after`'s outputs on the probe from `before`'s.

    largest: of scores, of cosines or of log-probabilities. typical: the mean of it, or the relative change of
    perplexity (generation).
    """
    kind = after.manifest.kind
    old, new = _outputs(before, probe), _outputs(after, probe)
    if how == "largest":
        metric, value = f"max |Δ {COMPARED[kind]}|", float(np.abs(old - new).max())
    elif kind != "generation":
        metric, value = f"mean |Δ {COMPARED[kind]}|", float(np.abs(old - new).mean())
    else:
        metric, value = "|Δ perplexity| / perplexity", abs(float(np.exp(old.mean() - new.mean())) - 1)
    return Parity(metric=metric, value=value, tolerance=tolerance)


def _outputs(engine: Engine, probe: Probe) -> np.ndarray:
    """Scores of the probe's pairs (cosines of a bi-encoder's), or log-probabilities of its texts' tokens (of an
    encoder-decoder, its targets')."""
    if isinstance(engine, EncoderEngine):
        scores = np.asarray(score_pairs(engine, probe.pairs))
        return 2 * scores - 1 if engine.manifest.kind == "embedding" else scores
    if engine.has_source:
        rows = engine.text_log_probs(*example_ids(engine, probe.texts, probe.targets))
        return np.asarray([value for row in rows for value in row])
    encoded = [engine.encode(text)[: engine.context] for text in probe.texts]
    return np.asarray([value for ids in encoded if len(ids) > 1 for value in engine.log_probs(ids)])


def latency_p50_ms(engine: Engine, probe: Probe) -> float:
    """Median milliseconds of the probe's timed pair as a lone caller gets it, on all of the engine's cores; or of one
    generated token after a short prompt."""
    warm_up(engine, probe)
    return statistics.median(latencies_ms(engine, probe, LATENCY_RUNS))


def interleaved_ms(engines: Mapping[str, Engine], probe: Probe, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Milliseconds of each engine, taken in turn, so that a machine that is slow for a while is slow for all."""
    for engine in engines.values():
        warm_up(engine, probe)
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, engine in engines.items():
            times[name] += latencies_ms(engine, probe, ROUND_RUNS)
    return times


def warm_up(engine: Engine, probe: Probe) -> None:
    """Call until what is made at first use, a session on all cores among it, is there."""
    ends = time.perf_counter() + WARM_UP_S
    while time.perf_counter() < ends:
        latencies_ms(engine, probe, 2)


def _token_times(engine: GenerationEngine, prompt: str, count: int) -> list[float]:
    """When each of `count` tokens came, told on the engine's own thread: one that waits may wake up to several.

    Raises what the engine's stream ends with.
    """
    times: list[float] = []
    ends: queue.SimpleQueue[Finish | SluiceError] = queue.SimpleQueue()

    def sink(event: Event) -> None:
        if isinstance(event, Token):
            times.append(time.perf_counter())
        elif isinstance(event, Finish | SluiceError):
            ends.put(event)

    settings = Sampling(max_tokens=count, temperature=1.0, seed=7, ignore_eos=True)
    engine.submit(engine.encode(prompt), settings, sink)
    end = ends.get()
    if isinstance(end, SluiceError):
        raise end
    return times


def latencies_ms(engine: Engine, probe: Probe, runs: int) -> list[float]:
    """Milliseconds of each of `runs` calls with the probe's timed pair, or generated tokens."""
    if isinstance(engine, EncoderEngine):
        assert probe.timed is not None  # make_probe gives encoders one
        times = [time.perf_counter()]
        for _ in range(runs):
            engine.score_alone([probe.timed])
            times.append(time.perf_counter())
    else:
        count = min(runs + 1, engine.context // 2)
        prompt = probe.texts[0][: engine.context // 8]  # a character has at most four tokens
        times = _token_times(engine, prompt, count)
    return [float(each) * 1000 for each in np.diff(times)] or [0.0]


def memory_bytes(directory: Path, probe: Probe) -> int:
    """Peak resident memory of a new process that loads the artifact and scores the probe's texts."""
    texts = json.dumps(list(probe.texts))
    command = [sys.executable, "-m", "training.compression.memory", str(directory)]
    done = subprocess.run(
        command, input=texts, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    if done.returncode:
        raise InvalidInput(f"{directory} could not be loaded by a process of its own: {done.stderr.strip()[-500:]}")
    return int(done.stdout)
