"""What a sentence-transformers folder says beside its network, and what is refused because of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, normalizers
from transformers import BartConfig, BertConfig, GPT2Config, RobertaConfig

from runtime.backends.fake import byte_tokenizer
from runtime.errors import InvalidInput
from training.sentence_folder import apply_lower_case, check_encoder, max_tokens, read_head

pytestmark = pytest.mark.unit


def folder_of(folder: Path, normalize: bool = False, **conventions: Any) -> Path:
    names = ["Transformer", "Pooling"] + ["Normalize"] * normalize
    modules = [
        {"path": f"{place}_{name}" if place else "", "type": f"sentence_transformers.models.{name}"}
        for place, name in enumerate(names)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text("{}")
    (folder / "config_sentence_transformers.json").write_text(json.dumps(conventions))
    return folder


@pytest.mark.parametrize(
    ("settings", "tokenizer", "expected"),
    [
        ({"max_seq_length": 128}, {"model_max_length": 512}, 128),
        ({"max_seq_length": None}, {"model_max_length": 256}, 256),
        ({"max_seq_length": 1000}, {}, 512),
        ({}, {"model_max_length": 10**30}, 512),
        (None, None, 512),
    ],
)
def test_the_limit_is_the_folders_and_no_more_than_the_positions(
    tmp_path: Path, settings: Any, tokenizer: Any, expected: int
) -> None:
    for name, content in (("sentence_bert_config.json", settings), ("tokenizer_config.json", tokenizer)):
        if content is not None:
            (tmp_path / name).write_text(json.dumps(content))
    assert max_tokens(BertConfig(), tmp_path) == expected
    # RoBERTa's 514 positions take 512 tokens.
    assert max_tokens(RobertaConfig(max_position_embeddings=514), tmp_path) == expected


def test_lower_case_is_put_into_the_tokenizer_where_it_is_missing(tmp_path: Path) -> None:
    path, settings = tmp_path / "tokenizer.json", tmp_path / "sentence_bert_config.json"
    byte_tokenizer(pairs=True).save(str(path))
    settings.write_text('{"do_lower_case": false}')
    apply_lower_case(tmp_path)
    assert Tokenizer.from_file(str(path)).encode("Ab").ids == [65, 98]
    settings.write_text('{"do_lower_case": true}')
    apply_lower_case(tmp_path)
    assert Tokenizer.from_file(str(path)).encode("Ab").ids == [97, 98]
    before = path.read_bytes()
    apply_lower_case(tmp_path)
    assert path.read_bytes() == before


def test_a_normalizer_that_is_there_stays(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(pairs=True)
    tokenizer.normalizer = normalizers.Replace("-", "")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    apply_lower_case(tmp_path)
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("A-b").ids == [97, 98]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompts": {"query": "q: "}, "default_prompt_name": "query"}, "puts 'q: ' before every text"),
        ({"similarity_fn_name": "dot"}, "compares by dot"),
        ({"similarity_fn_name": "euclidean", "normalize": True}, "compares by euclidean"),
    ],
)
def test_conventions_that_are_not_kept_are_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_head(folder_of(tmp_path, **fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"similarity_fn_name": None},
        {"similarity_fn_name": "dot", "normalize": True},
        {"prompts": {"query": "q: "}, "default_prompt_name": None},
        {"prompts": {"query": ""}, "default_prompt_name": "query"},
    ],
)
def test_conventions_that_change_nothing_are_taken(tmp_path: Path, fields: dict[str, Any]) -> None:
    assert read_head(folder_of(tmp_path, **fields)).poolings == ("mean",)


def test_a_bi_encoder_needs_an_encoder(tmp_path: Path) -> None:
    check_encoder(BertConfig(), tmp_path)
    for config in (GPT2Config(), BartConfig()):
        with pytest.raises(InvalidInput, match=f"holds a {config.model_type} model; a bi-encoder needs an encoder"):
            check_encoder(config, tmp_path)
