"""Bi-encoders: what each pooling computes, what a folder asks for, what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from models.bi_encoder import POOLINGS, load, read_head, write_head

pytestmark = pytest.mark.unit
SHAPE: dict[str, Any] = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SHAPE |= {"intermediate_size": 32, "max_position_embeddings": 40}
TYPES = "sentence_transformers.models."


def folder_of(folder: Path, *types: str, pooling: dict[str, Any] | None = None, dense: Any = None) -> Path:
    """A folder with these modules; the pooling's and the dense layer's settings as given."""
    folder.mkdir(exist_ok=True)
    modules = [
        {"idx": place, "path": f"{place}_{name.rpartition('.')[2]}" if place else "", "type": name}
        for place, name in enumerate(types)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    for module in modules[1:]:
        (folder / module["path"]).mkdir()
        config = {"Pooling": pooling or {}, "Dense": dense or {}}.get(module["type"].rpartition(".")[2], {})
        (folder / module["path"] / "config.json").write_text(json.dumps(config))
    return folder


PLAIN = (f"{TYPES}Transformer", f"{TYPES}Pooling")


def test_each_pooling_looks_at_the_tokens_and_not_at_the_padding() -> None:
    row = torch.tensor([[1.0, 8.0], [2.0, -3.0], [6.0, 1.0]])  # (3, 2)
    hidden = torch.full((2, 5, 2), 99.0)
    hidden[0, :3] = row
    hidden[1] = torch.arange(10.0).view(5, 2)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    expected = {
        "cls": [1, 8],
        "max": [6, 8],
        "mean": [3, 2],
        "mean_sqrt_len_tokens": [9 / 3**0.5, 6 / 3**0.5],
        "weightedmean": [(1 + 4 + 18) / 6, (8 - 6 + 3) / 6],
        "lasttoken": [6, 1],
    }
    assert expected.keys() == POOLINGS.keys()
    for name, values in expected.items():
        pooled = POOLINGS[name](hidden, mask)
        torch.testing.assert_close(pooled[0], torch.tensor(values, dtype=torch.float32))
        # Alone and without padding it is the same.
        torch.testing.assert_close(POOLINGS[name](row[None], mask[:1, :3])[0], pooled[0])


@pytest.mark.parametrize(
    ("config", "poolings"),
    [
        ({}, ("mean",)),
        ({"pooling_mode": "cls"}, ("cls",)),
        ({"pooling_mode": ["mean", "cls"]}, ("mean", "cls")),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, ("mean",)),
        ({"pooling_mode_lasttoken": True, "pooling_mode_cls_token": True}, ("cls", "lasttoken")),
    ],
)
def test_poolings_in_the_old_and_the_new_spelling(tmp_path: Path, config: Any, poolings: tuple[str, ...]) -> None:
    head = read_head(folder_of(tmp_path, *PLAIN, pooling=config))
    assert head.poolings == poolings
    assert head.dimensions(16) == 16 * len(poolings)


def test_dense_layers_give_the_dimensions(tmp_path: Path) -> None:
    dense = {"in_features": 16, "out_features": 8}
    head = read_head(folder_of(tmp_path, *PLAIN, f"{TYPES}Dense", f"{TYPES}Normalize", dense=dense))
    assert (head.dimensions(16), head.layers[0].activation, head.normalized) == (8, "Tanh", True)


@pytest.mark.parametrize(
    ("types", "settings", "message"),
    [
        ((*PLAIN, f"{TYPES}LSTM"), {}, r"has a module sentence_transformers\.models\.LSTM; supported are"),
        ((*PLAIN, "my.code.Dense"), {}, r"has a module my\.code\.Dense"),
        ((PLAIN[0],), {}, "has the modules Transformer; they must be"),
        ((*PLAIN, f"{TYPES}Normalize", f"{TYPES}Dense"), {"dense": {}}, "they must be Transformer, Pooling, Dense"),
        (PLAIN, {"pooling": {"pooling_mode": "attention"}}, "asks for the pooling 'attention'; supported are cls, max"),
        (PLAIN, {"pooling": {"pooling_mode_best": True}}, "asks for the pooling 'pooling_mode_best'"),
        ((*PLAIN, f"{TYPES}Dense"), {"dense": {"activation_function": "my.Gelu"}}, r"has the activation my\.Gelu"),
        ((*PLAIN, f"{TYPES}Dense"), {"dense": {"use_residual": True}}, "has use_residual"),
        ((*PLAIN, f"{TYPES}Dense"), {"dense": {"module_input_name": "token_embeddings"}}, "module_input_name"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path: Path, types: Any, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_head(folder_of(tmp_path, *types, **settings))


def test_a_folder_with_its_encoder_elsewhere_is_told_what_to_do(tmp_path: Path) -> None:
    folder_of(tmp_path, *PLAIN)
    text = (tmp_path / "modules.json").read_text().replace('"path": ""', '"path": "0_Transformer"')
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises(ValueError, match="keeps its encoder in 0_Transformer; save it again"):
        read_head(tmp_path)


def test_a_plain_encoder_gets_one_pooling_that_reads_back(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = BertModel(BertConfig(**SHAPE)).eval()
    model.save_pretrained(tmp_path)
    write_head(tmp_path, ["cls"], 16)
    assert read_head(tmp_path).poolings == ("cls",)
    ids = torch.randint(3, 50, (2, 7))
    with torch.inference_mode():
        hidden = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        torch.testing.assert_close(load(tmp_path)(ids, torch.ones_like(ids)), hidden[:, 0])


def test_missing_weights_are_named(tmp_path: Path) -> None:
    BertModel(BertConfig(**SHAPE)).save_pretrained(tmp_path)
    write_head(tmp_path, ["mean"], 16)
    BertConfig(**(SHAPE | {"num_hidden_layers": 2})).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks 16 weights of its bert encoder: encoder\.layer\.1"):
        load(tmp_path)
    BertConfig(**SHAPE).save_pretrained(tmp_path)
    dense = {"in_features": 16, "out_features": 8}
    for path in (tmp_path / "modules.json", tmp_path / "1_Pooling/config.json"):
        path.unlink()
    (tmp_path / "1_Pooling").rmdir()
    folder_of(tmp_path, *PLAIN, f"{TYPES}Dense", dense=dense)
    with pytest.raises(ValueError, match=r"2_Dense has no model\.safetensors"):
        load(tmp_path)
