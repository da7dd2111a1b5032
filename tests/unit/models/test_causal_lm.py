"""GPT-2 and Llama shapes: as asked for, causal, tied; what cannot be is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from models.causal_lm import Shape, build_gpt2, build_llama, load

pytestmark = pytest.mark.unit
SHAPE = Shape(vocab_size=60, max_tokens=24, layers=2, hidden=32, heads=4, dropout=0.0, end_id=0)


@pytest.mark.parametrize("build", [build_gpt2, build_llama])
def test_the_shape_is_as_asked_for_and_the_past_does_not_see_the_future(build: type) -> None:
    model = build(SHAPE).eval()
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (2, 32, 4)
    assert (config.max_position_embeddings, config.vocab_size, config.eos_token_id) == (24, 60, 0)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    ids = torch.randint(0, 60, (2, 10))
    changed = ids.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 60
    with torch.inference_mode():
        before, after = model(ids).logits, model(changed).logits
    assert before.shape == (2, 10, 60)
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


def test_llama_may_share_key_value_heads() -> None:
    model = build_llama(replace(SHAPE, kv_heads=2))
    assert model.model.layers[0].self_attn.k_proj.weight.shape == (16, 32)


@pytest.mark.parametrize(
    ("build", "changed", "message"),
    [
        (build_gpt2, {"heads": 5}, "hidden 32 must be a multiple of heads 5"),
        (build_gpt2, {"kv_heads": 2}, "gpt2 has as many as heads"),
        (build_llama, {"kv_heads": 3}, "heads 4 must be a multiple of kv_heads 3"),
        (build_llama, {"heads": 32}, "must be even"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(build: type, changed: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(replace(SHAPE, **changed))


def test_a_saved_model_is_loaded_whole_or_refused(tmp_path: Path) -> None:
    model = build_llama(SHAPE)
    model.save_pretrained(tmp_path / "llama")
    again = load(tmp_path / "llama")
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=0, atol=0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(**shape, vocab_size=20)).save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="bert"):
        load(tmp_path / "bert")
