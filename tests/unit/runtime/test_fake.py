"""The fake backends keep the contract that the real ones keep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime.backends.fake import VOCABULARY, FakeGeneration, FakeMatching, write_fake_artifact
from runtime.contract import Pair
from runtime.errors import BackendFailed
from runtime.load import load_engine
from runtime.matching import MatchingEngine
from tests.unit.runtime.backend_contract import EncoderBackendContract, GenerationBackendContract

pytestmark = pytest.mark.unit


class TestFakeMatching(EncoderBackendContract):
    tolerance = 0.0
    vocab_size = 256

    @pytest.fixture
    def backend(self, tmp_path: Path) -> FakeMatching:
        write_fake_artifact(tmp_path, "matching")
        return FakeMatching(tmp_path)

    def test_rows_differ(self, backend: FakeMatching) -> None:
        words = [list(text.encode()) for text in ("one two", "two two")]
        assert len({float(self.run(backend, [row])[0, 1]) for row in map(np.asarray, words)}) == 2


class TestFakeGeneration(GenerationBackendContract):
    tolerance = 0.0
    vocab_size = VOCABULARY

    @pytest.fixture
    def backend(self, tmp_path: Path) -> FakeGeneration:
        write_fake_artifact(tmp_path, "generation")
        return FakeGeneration(tmp_path, slots=3, context=64)


def test_the_engine_scores_by_words_and_isolates_poison(tmp_path: Path) -> None:
    write_fake_artifact(tmp_path, "matching")
    engine = load_engine(tmp_path)
    assert isinstance(engine, MatchingEngine)
    same, poison, other = engine.score([Pair("a b", "B a"), Pair("x", "<poison>"), Pair("a b", "c d")])
    assert not isinstance(same, BackendFailed)
    assert not isinstance(other, BackendFailed)
    assert isinstance(poison, BackendFailed)
    assert same.score > 0.9 > 0.1 > other.score  # type: ignore[union-attr]
