"""Heads over any encoder: texts are told apart by the separator, padding does not matter, a frozen encoder stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, BertConfig, ElectraConfig, RobertaConfig

from models import encoder
from models.pair_classifier import Frame, PairClassifierForSequenceClassification, build
from models.positions import usable_positions
from models.registry import ARCHITECTURES, register_networks

pytestmark = pytest.mark.unit
SHAPE: dict[str, Any] = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPE |= {"intermediate_size": 32, "max_position_embeddings": 40, "pad_token_id": 1}
BASES: dict[str, Any] = {"bert": BertConfig, "roberta": RobertaConfig, "electra": ElectraConfig}
FIRST, SEPARATOR = 2, 3


def classifier(network: str, head: str, **changed: Any) -> PairClassifierForSequenceClassification:
    torch.manual_seed(5)
    if network in BASES:
        made = AutoModel.from_config(BASES[network](**SHAPE))
    else:
        made = encoder.create(network, vocab_size=60, embedding_size=12, hidden_size=16)
    frame = Frame(SEPARATOR, (FIRST, SEPARATOR))
    settings = {"head": head, "head_hidden": 8, "frame": frame, "labels": ("different", "same"), "dropout": 0.1}
    model = build(made, **(settings | changed))
    torch.nn.init.normal_(model.classifier.weight)  # a fresh head hardly tells pairs apart
    return model.eval()


def logits(model: PairClassifierForSequenceClassification, rows: list[list[int]], width: int) -> torch.Tensor:
    ids = torch.tensor([row + [1] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=mask).logits


@pytest.mark.parametrize("head", ARCHITECTURES["pair head"])
@pytest.mark.parametrize("network", [*BASES, *ARCHITECTURES["encoder"]])
def test_padding_and_neighbours_do_not_matter_and_a_folder_gives_it_back(
    network: str, head: str, tmp_path: Path
) -> None:
    model = classifier(network, head)
    # With one separator between the texts, with two (RoBERTa), with an empty text, with none behind the second.
    rows = [[2, 5, 6, 7, 3, 8, 9, 3], [2, 5, 3, 3, 8, 9, 10, 11, 3], [2, 3, 8, 3], [5, 6, 3, 8]]
    together = logits(model, rows, 12)
    for number, row in enumerate(rows):
        torch.testing.assert_close(together[number], logits(model, [row], len(row))[0], rtol=1e-5, atol=1e-5)
    assert len({round(float(row[0]), 4) for row in together}) == len(rows)
    model.save_pretrained(tmp_path)
    register_networks()
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(loaded, rows, 12), together, rtol=0, atol=0)
    assert loaded.config.id2label == {0: "different", 1: "same"}


def test_the_separator_says_which_text_a_token_is_of() -> None:
    model = classifier("bert", "interaction")
    ids = torch.tensor([[2, 5, 6, 3, 3, 8, 3, 1], [5, 3, 8, 9, 10, 3, 1, 1]])
    mask = (ids != 1).long()
    first, second = model._texts(ids, mask)
    assert [ids[0][first[0]].tolist(), ids[0][second[0]].tolist()] == [[5, 6], [8]]
    assert [ids[1][first[1]].tolist(), ids[1][second[1]].tolist()] == [[5], [8, 9, 10]]


def test_the_encoder_is_the_bases() -> None:
    torch.manual_seed(5)
    base = AutoModel.from_config(BertConfig(**SHAPE))
    before = {name: value.clone() for name, value in base.state_dict().items() if "pooler" not in name}
    ids = torch.tensor([[2, 5, 6, 3, 8, 3]])
    with torch.inference_mode():
        hidden = base.eval()(input_ids=ids).last_hidden_state
        frame = Frame(SEPARATOR, (FIRST, SEPARATOR))
        model = build(base, head="cnn", head_hidden=8, frame=frame, labels=("0", "1"), dropout=0.1).eval()
        torch.testing.assert_close(model.hidden_states(ids, torch.ones_like(ids)), hidden)
    assert {name: float((value - before[name]).abs().max()) for name, value in model.encoder.state_dict().items()} == (
        dict.fromkeys(before, 0.0)
    )


def test_frozen_it_has_no_gradient_and_no_dropout() -> None:
    model = classifier("bert", "bilstm", frozen=True).train()
    trained = {name.split(".")[0] for name, each in model.named_parameters() if each.requires_grad}
    assert trained == {"layer", "classifier"}
    ids = torch.tensor([[2, 5, 6, 3, 8, 3]])
    once, again = (model.hidden_states(ids, torch.ones_like(ids)) for _ in range(2))
    torch.testing.assert_close(once, again, rtol=0, atol=0)
    assert model.dropout.training


def test_given_hidden_states_the_encoder_is_not_run() -> None:
    model = classifier("roberta", "cnn")
    ids = torch.tensor([[2, 5, 6, 3, 3, 8, 3]])
    mask = torch.ones_like(ids)
    expected = logits(model, ids.tolist(), 7)
    with torch.inference_mode():
        hidden = model.hidden_states(ids, mask)
        model.encoder = None
        torch.testing.assert_close(model(ids, mask, hidden=hidden).logits, expected)


def test_its_positions_are_the_encoders() -> None:
    assert usable_positions(classifier("roberta", "cnn").config) == 38
    assert usable_positions(classifier("bert", "cnn").config) == 40
    assert usable_positions(classifier("bilstm", "cnn").config) == 128
