"""Tokenizers made from data: nothing is unknown, pairs are framed, Chinese is read by character."""

from __future__ import annotations

import pytest

from training.vocabulary import FIRST, SEPARATOR, train_encoder_bpe

pytestmark = pytest.mark.unit
ENGLISH = ["When will my card arrive?", "Has my card been sent?"] * 20
CHINESE = ["凯西和她的丈夫经济状况稳定。", "她的丈夫和凯西经济状况不稳定。"] * 20


def test_a_pair_is_framed_and_words_are_the_same_wherever_they_stand() -> None:
    tokenizer = train_encoder_bpe(ENGLISH, 400, 64)
    assert len(tokenizer) <= 400
    assert tokenizer.pad_token_id == 0
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("Card my", "my ＣＡＲＤ")["input_ids"])
    assert tokens == [FIRST, "Ġcard", "Ġmy", SEPARATOR, "Ġmy", "Ġcard", SEPARATOR]
    assert tokenizer.convert_ids_to_tokens(tokenizer("card")["input_ids"]) == [FIRST, "Ġcard", SEPARATOR]


def test_chinese_is_read_by_character_and_nothing_is_unknown() -> None:
    tokenizer = train_encoder_bpe(CHINESE, 400, 64)
    ids = tokenizer("凯西和丈夫", add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode([token]).strip() for token in ids if tokenizer.decode([token]).strip()] == list(
        "凯西和丈夫"
    )
    for text in ("凯西 and 夫", "жёлтый 猫 🦊"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == f" {text}"


def test_the_tokenizer_is_a_function_of_the_texts() -> None:
    made = {train_encoder_bpe(ENGLISH + CHINESE, 500, 64).backend_tokenizer.to_str() for _ in range(3)}
    assert len(made) == 1
