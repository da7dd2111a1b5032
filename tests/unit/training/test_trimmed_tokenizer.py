"""Trimmed tokenizers: given texts are cut as before, any other can still be written."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from runtime.errors import InvalidInput
from training.compression.trimmed_tokenizer import Spec, kept_tokens, trim, used_tokens

pytestmark = pytest.mark.unit
CORPUS = [
    "the card that was sent to the other address has not arrived yet",
    "when will another card arrive at the new address",
    "there was a charge on the statement that nobody has authorised",
    "transfers to another account take a day, sometimes two days",
    "naïve café owners paid 12.50 for the transfer and 7.25 for the other one",
] * 3


def _wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["[PAD]", "[UNK]", "[unused0]", "[CLS]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.BertProcessing(
        ("[SEP]", tokenizer.token_to_id("[SEP]")), ("[CLS]", tokenizer.token_to_id("[CLS]"))
    )
    return tokenizer


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    return tokenizer


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=160, special_tokens=["<unk>", "<end>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 1)])
    return tokenizer


TOKENIZERS = {"WordPiece": _wordpiece(), "byte-level BPE": _byte_level(), "Unigram": _unigram()}
# Of the corpus's letters, one that no tokenizer has seen, and one whose lower case is two characters.
TEXTS = st.lists(st.text("aehrstcd, ïé1☃İ", max_size=20), min_size=1, max_size=6)


def _trimmed(tokenizer: Tokenizer, texts: Sequence[str], reserve: int) -> tuple[Tokenizer, list[int]]:
    spec: Spec = json.loads(tokenizer.to_str())
    kept = kept_tokens(spec, used_tokens(tokenizer, texts), reserve)
    return Tokenizer.from_str(json.dumps(trim(spec, kept))), kept


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=40, deadline=None)
@given(texts=TEXTS, reserve=st.integers(0, 30))
def test_the_texts_are_cut_as_before(name: str, texts: list[str], reserve: int) -> None:
    tokenizer = TOKENIZERS[name]
    trimmed, kept = _trimmed(tokenizer, texts, reserve)
    for text in texts:
        before, after = tokenizer.encode(text), trimmed.encode(text)
        assert after.tokens == before.tokens
        assert [kept[index] for index in after.ids] == before.ids


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=40, deadline=None)
@given(text=st.text("aehrstcdnw, 12.", max_size=20))
def test_any_other_text_can_be_written_with_known_tokens(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    trimmed, _ = _trimmed(tokenizer, ["the card"], 0)
    assert trimmed.get_vocab_size() < tokenizer.get_vocab_size()
    unknown = {"[UNK]", "<unk>"}
    if not unknown & set(tokenizer.encode(text).tokens):
        assert not unknown & set(trimmed.encode(text).tokens)
    if name != "WordPiece":
        assert trimmed.decode(trimmed.encode(text).ids) == tokenizer.decode(tokenizer.encode(text).ids)


def test_a_word_that_was_unknown_stays_unknown() -> None:
    # "abc" is taken first and nothing fits then; without it "ab", "##cx" would.
    vocabulary = {token: index for index, token in enumerate(["[UNK]", "ab", "abc", "##cx", "##c", "other"])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trimmed, kept = _trimmed(tokenizer, ["abcx"], 2)
    assert len(kept) < len(vocabulary)
    assert trimmed.encode("abcx").tokens == tokenizer.encode("abcx").tokens == ["[UNK]"]


def test_the_reserve_is_the_front_of_the_vocabulary_without_what_no_text_has() -> None:
    tokenizer = TOKENIZERS["WordPiece"]
    spec = json.loads(tokenizer.to_str())
    none, some = (kept_tokens(spec, used_tokens(tokenizer, ["card"]), reserve) for reserve in (0, 5))
    added = sorted(set(some) - set(none))
    assert len(added) == 5
    assert added == [index for index in range(added[-1] + 1) if index not in none and index != 2]
    assert tokenizer.id_to_token(2) == "[unused0]"


def test_what_stands_around_texts_stays_though_nobody_called_it_special() -> None:
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "<end>": 2, "<pair>": 3, "ab": 4}, [("a", "b")]))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <end>", pair="$A <pair> $B", special_tokens=[("<end>", 2), ("<pair>", 3)]
    )
    trimmed, kept = _trimmed(tokenizer, ["a"], 0)
    assert kept == [0, 1, 2, 3]
    assert trimmed.encode("a", "b").tokens == ["a", "<pair>", "b"]


def test_needed_tokens_stay() -> None:
    spec = json.loads(TOKENIZERS["Unigram"].to_str())
    assert 150 in kept_tokens(spec, (), 0, needed=[150])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (models.WordLevel({"a": 0}, unk_token="a"), "is a WordLevel; the vocabulary of WordPiece, BPE, Unigram can"),
        (models.BPE({"a": 0}, [], end_of_word_suffix="</w>"), "is a BPE with prefixes or suffixes"),
    ],
)
def test_another_kind_of_tokenizer_is_refused(model: models.Model, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        kept_tokens(json.loads(Tokenizer(model).to_str()), (), 0)
