"""Texts to token ids: what is cut, what is refused, and by which name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from runtime.backends.fake import byte_tokenizer
from runtime.contract import Encoded
from runtime.errors import InvalidInput, TooManyTokens
from runtime.text import TextEncoder

pytestmark = pytest.mark.unit
BEGIN, END = 0, 1


def word_tokenizer() -> Tokenizer:
    """Words of one letter, between BEGIN and END."""
    words = {"[B]": BEGIN, "[E]": END, **{letter: 2 + place for place, letter in enumerate("abcdefgh")}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[E]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[B] $A [E]", pair="[B] $A [E] $B:1 [E]:1", special_tokens=[("[B]", BEGIN), ("[E]", END)]
    )
    return tokenizer


words = TextEncoder(word_tokenizer(), max_tokens=6)
plain = TextEncoder(byte_tokenizer(pairs=True), max_tokens=6, pad_token_id=7)


def test_ids_are_put_between_the_special_tokens_once() -> None:
    (text,) = words.encode(["a b"])
    assert text.ids == (BEGIN, 2, 3, END)
    assert words.frame((2, 3)) == text
    assert words.frame((BEGIN, 2, 3, END)) == text
    assert words.frame((END, 2)).ids == (BEGIN, END, 2, END)
    assert plain.frame((97, 98)) == plain.encode(["ab"])[0]


@pytest.mark.parametrize(("side", "left"), [("right", (2, 3, 4, 5)), ("left", (4, 5, 6, 7))])
def test_ids_that_do_not_fit_are_cut_as_their_text_is(side: str, left: tuple[int, ...]) -> None:
    for ids in ((2, 3, 4, 5, 6, 7), (BEGIN, 2, 3, 4, 5, 6, 7, END)):
        item = words.frame(ids, side=side)  # type: ignore[arg-type]
        assert item == Encoded((BEGIN, *left, END), (0,) * 6, 2)
        assert item == words.encode(["a b c d e f"], side=side)[0]  # type: ignore[arg-type]
        with pytest.raises(TooManyTokens, match="8 tokens") as refused:
            words.frame(ids, truncate=False, name="input[3]")
        assert refused.value.param == "input[3]"


@pytest.mark.parametrize("token", [10, -1, 2**32, 10**40])
def test_an_id_that_is_no_token_is_refused(token: int) -> None:
    with pytest.raises(InvalidInput, match=str(token)):
        words.frame((2, token))


def test_nothing_at_all_is_one_padding_token() -> None:
    assert plain.encode([""]) == [Encoded((7,), (0,))]
    assert words.encode([""])[0].ids == (BEGIN, END)


@given(st.text("abcdefgh ", max_size=20), st.integers(1, 8))
def test_a_shortened_text_has_the_first_tokens(text: str, tokens: int) -> None:
    whole = words.spell([text], special=False)[0].ids
    short, dropped = words.shorten(text, tokens, "text")
    assert words.spell([short], special=False)[0].ids == whole[:tokens]
    assert dropped == max(0, len(whole) - tokens)


def test_a_lone_surrogate_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"documents\[0\]"):
        words.shorten("\ud800", 1, "documents[0]")
