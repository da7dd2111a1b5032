"""The KV cache's budget: what each sequence may hold follows from it, and too small a one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.backends.fake import write_fake_artifact
from runtime.errors import ArtifactRefused
from runtime.generation import GenerationEngine
from runtime.load import context_tokens, load_engine
from runtime.manifest import CausalShape

pytestmark = pytest.mark.unit
SHAPE = CausalShape(layers=12, kv_heads=12, head_dim=64, vocab_size=50257)


@pytest.mark.parametrize(
    ("max_tokens", "slots", "kv_bytes", "expected"),
    [
        (1024, 8, None, 1024),
        (1024, 8, 2**30, 1024),  # 73,728 bytes a token: 604 MB
        (1024, 16, 2**30, 910),
        (131_072, 8, 2**30, 1820),
        (32, 8, 32 * 8 * 73_728, 32),
    ],
)
def test_a_sequence_gets_what_the_budget_has_room_for(
    max_tokens: int, slots: int, kv_bytes: int | None, expected: int
) -> None:
    assert context_tokens(SHAPE, max_tokens, slots, kv_bytes) == expected


def test_a_budget_without_room_for_text_is_refused() -> None:
    with pytest.raises(ArtifactRefused, match=r"cache of 8388608 bytes has room for 14 tokens in each of 8 .* 64 are"):
        context_tokens(SHAPE, 1024, 8, 2**23)


def test_an_engine_takes_prompts_of_its_budget(tmp_path: Path) -> None:
    write_fake_artifact(tmp_path, "generation")
    engine = load_engine(tmp_path, slots=2, kv_bytes=2 * 100 * 128)
    assert isinstance(engine, GenerationEngine)
    assert (engine.slots, engine.context) == (2, 100)
    engine.close()
