"""What is timed of a generated token is the engine's step, however late the one who waits for it wakes up."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from runtime.backends.fake import write_fake_artifact
from runtime.generation import GenerationEngine
from runtime.load import load_engine
from training.compression.measure import latencies_ms
from training.compression.probe import Probe

pytestmark = pytest.mark.unit
STEP_S = 0.004


def test_no_token_takes_less_than_a_step(tmp_path: Path) -> None:
    write_fake_artifact(tmp_path / "model", "generation", latency_s=STEP_S)
    engine = load_engine(tmp_path / "model")
    assert isinstance(engine, GenerationEngine)
    stop = threading.Event()

    def hold_the_interpreter() -> None:
        while not stop.is_set():
            sum(range(20_000))

    busy = [threading.Thread(target=hold_the_interpreter) for _ in range(4)]
    for thread in busy:
        thread.start()
    try:
        times = latencies_ms(engine, Probe(texts=["a"]), 20)
    finally:
        stop.set()
        for thread in busy:
            thread.join()
        engine.close()
    assert len(times) == 20
    assert min(times) >= STEP_S * 1000 * 0.99
