"""What is read from a folder that transformers saved: the tokens that end a text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import BartConfig, GPT2Config

from runtime.errors import InvalidInput
from training.checkpoint import GENERATION_CONFIG, causal_shape, end_tokens

pytestmark = pytest.mark.unit


def test_a_turn_ends_with_what_either_configuration_names(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=300, eos_token_id=256)
    assert end_tokens(config, tmp_path) == [256]
    (tmp_path / GENERATION_CONFIG).write_text(json.dumps({"eos_token_id": [257, 256, 999]}))
    assert end_tokens(config, tmp_path) == [256, 257, 999]
    assert causal_shape(config, tmp_path).eos_token_ids == (256, 257)  # 999 is outside the vocabulary


def test_an_encoder_decoder_begins_with_what_either_configuration_names(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"decoder_start_token_id": 2, "forced_bos_token_id": 0}))
    config = BartConfig(decoder_layers=3, decoder_attention_heads=4)
    shape = causal_shape(config, tmp_path)
    assert (shape.start_token_ids, shape.layers, shape.kv_heads, shape.head_dim) == ((2, 0), 3, 4, 256)
    alone = causal_shape(GPT2Config(n_layer=3, n_head=4, n_embd=1024), tmp_path)
    assert shape.kv_bytes_per_token == 2 * alone.kv_bytes_per_token  # and as much for the source
    (tmp_path / GENERATION_CONFIG).write_text(json.dumps({"decoder_start_token_id": 0, "forced_bos_token_id": 5}))
    assert causal_shape(config, tmp_path).start_token_ids == (0, 5)
    (tmp_path / GENERATION_CONFIG).unlink()
    file.write_text("{}")
    config.decoder_start_token_id = None
    with pytest.raises(InvalidInput, match=r"no decoder_start_token_id in config\.json"):
        causal_shape(config, tmp_path)


def test_a_broken_generation_config_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / GENERATION_CONFIG).write_text("{")
    with pytest.raises(InvalidInput, match=GENERATION_CONFIG):
        end_tokens(GPT2Config(), tmp_path)
