"""The generation engine's contract with vLLM on a GPU. Not collected by the suite: `python -m benchmarks.gpu --engine
vllm` names this file. Without vLLM and a GPU every test here fails; none is skipped. No GPU has run these yet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.contract import TextEngine
from runtime.encoder import EncoderEngine
from runtime.load import load_engine
from tests.integration.generation_contract import LIMITS, SLOTS, GenerationEngineContract
from tests.integration.test_generation import root  # noqa: F401  # a fixture


class TestVllm(GenerationEngineContract):
    @pytest.fixture
    def engine(self, root: Path) -> Iterator[TextEngine]:  # noqa: F811
        engine = load_engine(
            root / "torch", slots=SLOTS, limits=LIMITS, kv_bytes=2**28, device="cuda:0", generation_engine="vllm"
        )
        assert not isinstance(engine, EncoderEngine)
        yield engine
        engine.close()
