"""`python -m training.explain.speed_process ARTIFACT SECONDS < TEXTS`: load time, memory and latency, as JSON.

A process of its own: what another has loaded already would hide what loading costs. Each cell of the table gets an
equal part of the seconds. Imports no more than serving does.
"""

from __future__ import annotations

import json
import queue
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from runtime.contract import Encoded, Event, Finish, JobResult, Pair, Sampling, Token
from runtime.encoder import EncoderEngine
from runtime.errors import SluiceError
from runtime.generation import GenerationEngine
from runtime.load import load_engine
from runtime.text import TextEncoder, load_tokenizer
from training.resident_memory import peak_resident_bytes, resident_bytes

BATCHES = (1, 8, 32)
LENGTHS = (16, 32, 64, 128)
LEAST_RUNS, MOST_RUNS = 3, 50
NEW_TOKENS = 16  # of each measured sequence
SLOTS = max(BATCHES)


def measure(directory: Path, texts: Sequence[str], seconds: float) -> dict[str, Any]:
    """Load the artifact and time requests of BATCHES items of LENGTHS tokens, as the server computes them.

    An item is a pair (matching), a text (embedding), or a prompt that is continued by NEW_TOKENS tokens (generation).
    """
    before, begun = resident_bytes(), time.perf_counter()
    engine = load_engine(directory, slots=SLOTS)
    load_s = time.perf_counter() - begun
    begun = time.perf_counter()
    engine.warm_up()
    warm_up_s = time.perf_counter() - begun
    loaded = resident_bytes()
    limit = engine.context - NEW_TOKENS if isinstance(engine, GenerationEngine) else engine.manifest.max_tokens
    shapes = [(batch, length) for batch in BATCHES for length in LENGTHS if length <= limit]
    tokenizer = load_tokenizer(directory / engine.manifest.tokenizer)
    cells = []
    for batch, length in shapes:
        if isinstance(engine, EncoderEngine):
            encoder = TextEncoder(tokenizer, length, engine.manifest.pad_token_id)
            cells.append(_encoder_cell(engine, _items(engine, encoder, texts), batch, length, seconds / len(shapes)))
        elif isinstance(engine, GenerationEngine):
            cells.append(_generation_cell(engine, texts, batch, length, seconds / len(shapes)))
    engine.close()
    return {
        "load_s": round(load_s, 4),
        "warm_up_s": round(warm_up_s, 4),
        "memory_loaded_bytes": loaded - before,
        "memory_peak_bytes": peak_resident_bytes(),
        "cells": cells,
    }


def _encoder_cell(
    engine: EncoderEngine, items: Sequence[Encoded], batch: int, length: int, budget_s: float
) -> dict[str, Any]:
    # Equal items in flight are computed once, so those of one request must differ.
    requests = _rounds(items, batch)

    def once() -> float:
        answers: queue.SimpleQueue[JobResult | SluiceError] = queue.SimpleQueue()
        asked = next(requests)
        begun = time.perf_counter()
        engine.submit(asked, answers.put)
        answer = answers.get()
        spent = time.perf_counter() - begun
        if isinstance(answer, SluiceError):
            raise answer
        return spent

    times = _repeated(once, budget_s)
    p50 = statistics.median(times)
    return _cell(batch, length, times) | {"items_per_s": round(batch / p50, 2)}


def _items(engine: EncoderEngine, encoder: TextEncoder, texts: Sequence[str]) -> list[Encoded]:
    """SLOTS different items of as many tokens as `encoder` takes: long ones, cut as the engine cuts them."""
    long = []
    for place in range(SLOTS):
        line = " ".join([str(place), *texts[place % len(texts) :], *texts])
        long.append(f"{line} " * (1 + 8 * encoder.max_tokens // len(line)))
    inputs = long if engine.manifest.kind == "embedding" else [Pair(each, each[::-1]) for each in long]
    return encoder.encode(inputs)


def _generation_cell(
    engine: GenerationEngine, texts: Sequence[str], batch: int, length: int, budget_s: float
) -> dict[str, Any]:
    whole = engine.encode(" ".join(texts) * (1 + SLOTS * length // max(len(" ".join(texts)), 1)))
    prompts = _rounds([whole[(place * 7) % len(whole) :] + whole for place in range(MOST_RUNS * batch)], batch)
    first: list[float] = []
    between: list[float] = []

    def once() -> float:
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        begun = time.perf_counter()
        for prompt in next(prompts):
            engine.submit(prompt[:length], Sampling(max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True), events.put)
        left, last = batch, begun
        firsts: list[float] = []
        while left:
            event = events.get()
            now = time.perf_counter()
            if isinstance(event, SluiceError):
                raise event
            if isinstance(event, Token):
                firsts += [now - begun] * (len(firsts) < batch)
                last = now
            left -= isinstance(event, Finish)
        first.append(statistics.median(firsts))
        between.append((last - begun - first[-1]) / (NEW_TOKENS - 1))
        return last - begun

    times = _repeated(once, budget_s)
    return _cell(batch, length, times) | {
        "items_per_s": round(batch * NEW_TOKENS / statistics.median(times), 2),
        "first_token_ms": round(statistics.median(first) * 1000, 3),
        "token_ms": round(statistics.median(between) * 1000, 3),
    }


def _rounds(items: Sequence[Any], batch: int) -> Iterator[list[Any]]:
    place = 0
    while True:
        yield [items[(place + number) % len(items)] for number in range(batch)]
        place += batch


def _repeated(once: Callable[[], float], budget_s: float) -> list[float]:
    """Seconds of each call, the first one left out; at least LEAST_RUNS of them, then as many as the budget has room
    for. A first call that takes more than the budget is all there is."""
    first = once()
    if first > budget_s:
        return [first]
    times: list[float] = []
    ends = time.perf_counter() + budget_s
    while len(times) < LEAST_RUNS or (time.perf_counter() < ends and len(times) < MOST_RUNS):
        times.append(once())
    return times


def _cell(batch: int, length: int, times: Sequence[float]) -> dict[str, Any]:
    ordered = sorted(times)
    return {
        "batch": batch,
        "tokens": length,
        "runs": len(times),
        "p50_ms": round(statistics.median(ordered) * 1000, 3),
        "p90_ms": round(ordered[int(0.9 * (len(ordered) - 1))] * 1000, 3),
    }


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), json.load(sys.stdin), float(sys.argv[2]))))
