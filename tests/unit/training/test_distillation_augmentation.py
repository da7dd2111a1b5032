"""Texts and pairs made from others are new, seeded, and made of what was there."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.contract import Pair
from training.distillation.augmentation import recombine_pairs, vary_texts

pytestmark = pytest.mark.unit
TEXTS = [f"where is my {thing} since {day}" for thing in ("card", "pin", "cash") for day in ("monday", "friday", "may")]
PAIRS = [Pair(a, b) for a, b in pairwise(TEXTS)]


def test_the_seed_decides() -> None:
    assert vary_texts(TEXTS, 3, 0.2, seed=7) == vary_texts(TEXTS, 3, 0.2, seed=7)
    assert vary_texts(TEXTS, 3, 0.2, seed=7) != vary_texts(TEXTS, 3, 0.2, seed=8)
    assert recombine_pairs(PAIRS, 30, 0.2, seed=7) == recombine_pairs(PAIRS, 30, 0.2, seed=7)
    assert recombine_pairs(PAIRS, 30, 0.2, seed=7) != recombine_pairs(PAIRS, 30, 0.2, seed=8)


@settings(max_examples=40)
@given(texts=st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=5), seed=st.integers(0, 9))
def test_variants_are_new_texts(texts: list[str], seed: int) -> None:
    made = vary_texts(texts, 2, 0.3, seed)
    assert len(set(made)) == len(made) <= 2 * len(texts)
    assert not set(made) & set(texts)
    assert all(text for text in made)


def test_variants_are_made_of_the_words_that_are_there() -> None:
    made = vary_texts(TEXTS, 4, 0.2, seed=7)
    assert len(made) > 2 * len(TEXTS)
    assert {word for text in made for word in text.split()} <= {word for text in TEXTS for word in text.split()}


def test_a_text_without_spaces_is_a_row_of_characters() -> None:
    made = vary_texts(["我的卡在哪里"], 20, 0.3, seed=7)
    assert len(made) > 5
    assert all(set(text) <= set("我的卡在哪里") for text in made)


def test_pairs_are_new_and_never_a_text_with_itself() -> None:
    made = recombine_pairs(PAIRS, 60, 0.2, seed=7)
    assert len(made) > 30
    assert len(set(made)) == len(made)
    assert not set(made) & set(PAIRS)
    assert all(pair.text_a != pair.text_b for pair in made)
    # What a text's partners have in common is often the same meaning: those pairs are tried too.
    partners = {(a.text_a, b.text_b) for a in PAIRS for b in PAIRS if a.text_b == b.text_a}
    assert partners & {(pair.text_a, pair.text_b) for pair in made}
