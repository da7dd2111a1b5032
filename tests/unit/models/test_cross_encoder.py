"""Cross-encoders on several families of encoders: head, dropout, frozen embeddings, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    MPNetConfig,
    PreTrainedConfig,
    RobertaConfig,
)

from models.cross_encoder import build, freeze_embeddings

pytestmark = pytest.mark.unit
SHAPE: dict[str, Any] = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPE |= {"intermediate_size": 32, "max_position_embeddings": 40, "pad_token_id": 1}
ENCODERS: dict[str, PreTrainedConfig] = {
    "bert": BertConfig(**SHAPE),
    "roberta": RobertaConfig(**SHAPE),
    "electra": ElectraConfig(**SHAPE, embedding_size=16),
    "mpnet": MPNetConfig(**SHAPE),
    "deberta-v2": DebertaV2Config(**SHAPE),
    "distilbert": DistilBertConfig(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=32),
}


def saved(folder: Path, config: PreTrainedConfig) -> Path:
    torch.manual_seed(1)
    AutoModel.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", ENCODERS)
def test_every_family_gets_a_head_and_dropout_before_it(tmp_path: Path, family: str) -> None:
    base = saved(tmp_path, ENCODERS[family])
    torch.manual_seed(5)
    model = build(base, labels=("different", "same"), dropout=0.9)
    assert model.config.id2label == {0: "different", 1: "same"}
    ids = torch.randint(3, 50, (4, 12))
    with torch.inference_mode():
        model.eval()
        calm = model(input_ids=ids).logits
        assert calm.shape == (4, 2)
        torch.testing.assert_close(model(input_ids=ids).logits, calm)
        # The encoder's own dropout is off, the head's is on: only the 0.9 before the prediction layer is at work.
        model.train()
        model.base_model.eval()
        runs = torch.stack([model(input_ids=ids).logits for _ in range(8)])
    assert float(runs.std(dim=0).mean()) > 0


def test_the_encoder_is_the_bases_and_the_new_head_is_seeded(tmp_path: Path) -> None:
    base = saved(tmp_path, ENCODERS["bert"])
    heads = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        model = build(base, labels=("0", "1"), dropout=0.1)
        heads.append(model.classifier.weight.detach())
    torch.testing.assert_close(heads[0], heads[1], rtol=0, atol=0)
    assert not torch.equal(heads[0], heads[2])
    original = AutoModel.from_pretrained(base).state_dict()
    for name, value in model.bert.state_dict().items():
        torch.testing.assert_close(value, original[name], rtol=0, atol=0)


def test_a_head_of_the_right_size_is_kept_and_another_replaced(tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = BertConfig(**SHAPE, num_labels=3)
    before = AutoModelForSequenceClassification.from_config(config)
    before.save_pretrained(tmp_path)
    kept = build(tmp_path, labels=("a", "b", "c"), dropout=0.1)
    torch.testing.assert_close(kept.classifier.weight, before.classifier.weight)
    assert build(tmp_path, labels=("a", "b"), dropout=0.1).classifier.weight.shape == (2, 16)


def test_freezing_leaves_out_the_word_embeddings_only(tmp_path: Path) -> None:
    model = build(saved(tmp_path, ENCODERS["bert"]), labels=("0", "1"), dropout=0.1)
    assert freeze_embeddings(model) == 50 * 16
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["bert.embeddings.word_embeddings.weight"]


def test_a_folder_that_lacks_the_encoders_weights_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, BertConfig(**(SHAPE | {"num_hidden_layers": 1})))
    BertConfig(**SHAPE).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks 16 weights of the bert encoder"):
        build(tmp_path, labels=("0", "1"), dropout=0.1)


def test_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}')
    with pytest.raises(ValueError, match="cannot become a cross-encoder"):
        build(tmp_path, labels=("0", "1"), dropout=0.1)
    gpt = saved(tmp_path / "gpt", GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20, n_positions=8))
    with pytest.raises(ValueError, match="has no dropout"):
        build(gpt, labels=("0", "1"), dropout=0.1)
