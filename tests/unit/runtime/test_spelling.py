"""Single tokens to bytes: joined, they are the text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from runtime.backends.fake import byte_tokenizer
from runtime.spelling import Speller, byte_alphabet

pytestmark = pytest.mark.unit


def test_the_alphabet_is_that_of_the_library() -> None:
    assert set(byte_alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_alphabet().values()) == list(range(256))


@given(st.text())
def test_byte_level_tokens_join_to_the_text(text: str) -> None:
    tokenizer = byte_tokenizer(pairs=False)
    speller = Speller(tokenizer)
    assert b"".join(map(speller.spell, tokenizer.encode(text).ids)).decode() == text


def sentencepiece() -> Tokenizer:
    """A vocabulary of three words, and bytes for the rest."""
    pieces = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "\u2581a", "b"]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("\u2581", "a")] if "a" in vocabulary else [], byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer


@given(st.text(alphabet=st.sampled_from(" béx€"), max_size=20))
def test_byte_fallback_tokens_join_to_the_text(text: str) -> None:
    tokenizer = sentencepiece()
    speller = Speller(tokenizer)
    assert b"".join(map(speller.spell, tokenizer.encode(text).ids)).decode() == text


def test_special_tokens_are_as_written_and_silent() -> None:
    speller = Speller(sentencepiece())
    assert speller.spell(1) == b"<s>"
    assert speller.silent == {1}
    assert speller.spell(10**6) == b""
