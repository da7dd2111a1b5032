"""What is cut from texts that do not fit: the very tokens that the library cuts, without what it makes of the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from runtime.backends.fake import byte_tokenizer
from runtime.contract import Pair
from runtime.text import SIDES, Side, TextEncoder

pytestmark = pytest.mark.unit
TEXTS = st.text(alphabet="abcd ", max_size=30)


@given(TEXTS, TEXTS, st.integers(4, 20), st.sampled_from(SIDES))
def test_it_is_the_librarys_truncation(text_a: str, text_b: str, limit: int, side: Side) -> None:
    library: Tokenizer = byte_tokenizer(pairs=True)
    ours = TextEncoder(byte_tokenizer(pairs=True), limit)
    library.enable_truncation(limit, strategy="longest_first", direction=side)
    for ours_input, theirs in ((Pair(text_a, text_b), (text_a, text_b)), (text_a + "a", text_a + "a")):
        expected = library.encode_batch_fast([theirs])[0]
        (found,) = ours.encode([ours_input], side=side)
        assert (found.ids, found.type_ids) == (tuple(expected.ids), tuple(expected.type_ids))


def test_two_long_texts_cost_what_they_are_long() -> None:
    # Every combination of what is cut off would be 60 million pieces.
    (found,) = TextEncoder(byte_tokenizer(pairs=True), 64).encode([Pair("a" * 500_000, "b" * 500_000)])
    assert (len(found), found.dropped_tokens) == (64, 1_000_001 - 64)
