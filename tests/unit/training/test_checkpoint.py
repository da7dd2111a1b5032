"""What is read from a folder that transformers saved: the tokens that end a text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import GPT2Config

from runtime.errors import InvalidInput
from training.checkpoint import GENERATION_CONFIG, causal_shape, end_tokens

pytestmark = pytest.mark.unit


def test_a_turn_ends_with_what_either_configuration_names(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=300, eos_token_id=256)
    assert end_tokens(config, tmp_path) == [256]
    (tmp_path / GENERATION_CONFIG).write_text(json.dumps({"eos_token_id": [257, 256, 999]}))
    ends = end_tokens(config, tmp_path)
    assert ends == [256, 257, 999]
    assert causal_shape(config, ends).eos_token_ids == (256, 257)  # 999 is outside the vocabulary


def test_a_broken_generation_config_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / GENERATION_CONFIG).write_text("{")
    with pytest.raises(InvalidInput, match=GENERATION_CONFIG):
        end_tokens(GPT2Config(), tmp_path)
