"""Tokenising pairs, and printing tokens as they become final."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from runtime.backends.fake import byte_tokenizer
from runtime.contract import Pair
from runtime.errors import ArtifactRefused, InvalidInput, TooManyTokens
from runtime.text import TextEncoder, TokenPrinter, load_tokenizer

pytestmark = pytest.mark.unit
TOKENIZER: Tokenizer = byte_tokenizer(pairs=False)
texts = st.text(max_size=40)


def printed(text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    """What a printer gives for the bytes of `text`, token by token, and whether a stop string ended it."""
    printer = TokenPrinter(TOKENIZER, [], stop)
    pieces = []
    for byte in text.encode():
        pieces.append(printer.push(byte))
        if printer.stopped:
            return pieces, True
    return [*pieces, printer.flush()], printer.stopped


@given(texts)
def test_pieces_add_up_to_the_text(text: str) -> None:
    assert "".join(printed(text)[0]) == text


@given(texts, st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=3))
@example("\ufffd", ["\ufffd"])  # held back until the end, because it may be half a character
@example("a\ufffd", ["a\ufffd"])
@example("a\ufffd", ["\ufffdb", "a\ufffdb"])
def test_a_stop_string_ends_the_text_where_it_first_becomes_complete(text: str, stops: list[str]) -> None:
    pieces, stopped = printed(text, tuple(stops))
    result = "".join(pieces)
    assert stopped == any(stop in text for stop in stops)
    assert text.startswith(result)
    assert not any(stop in result for stop in stops)
    if not stopped:
        assert result == text


def test_half_a_character_is_held_back_and_half_a_stop_string_too() -> None:
    assert printed("é")[0][:2] == ["", "é"]
    pieces, _ = printed("ab", ("bc",))
    assert pieces == ["a", "", "b"]


def test_bytes_that_never_become_a_character_are_shown_in_the_end() -> None:
    printer = TokenPrinter(TOKENIZER, [], ())
    shown = "".join(printer.push(0xFF) for _ in range(6))
    assert "\ufffd" in shown


def test_a_pair_that_does_not_fit_loses_tokens_of_the_longer_text_or_is_refused() -> None:
    encoder = TextEncoder(byte_tokenizer(pairs=True), max_tokens=9)
    (encoded,) = encoder.encode([Pair("ab", "0123456789")])
    assert len(encoded) == 9
    assert encoded.dropped_tokens == 4
    assert bytes(encoded.ids[:2]) == b"ab"
    with pytest.raises(TooManyTokens, match=r"pairs\[0\] has 13 tokens; this model takes 9"):
        encoder.encode([Pair("ab", "0123456789")], truncate=False)


def test_a_lone_surrogate_is_named() -> None:
    encoder = TextEncoder(byte_tokenizer(pairs=True), max_tokens=9)
    with pytest.raises(InvalidInput, match=r"pairs\[1\]\.text_b holds a lone surrogate \(U\+D800\) at character 1"):
        encoder.encode([Pair("a", "b"), Pair("a", "b\ud800")])


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactRefused, match="is not a tokenizer file"):
        load_tokenizer(tmp_path / "tokenizer.json")
