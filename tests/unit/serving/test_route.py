"""How much there is in a long body, counted without a parser."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.route import NUMBERS_A_VALUE, count_values

pytestmark = pytest.mark.unit
TEXTS = st.text(alphabet='ab,"\\[{\n 字', max_size=12)
VALUES = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(TEXTS, inner, max_size=12),
    max_leaves=40,
)


def counts(value: object) -> tuple[int, int]:
    """Texts, names, lists and objects in a value; and the commas between what they hold."""
    if isinstance(value, str):
        return 1, 0
    if not isinstance(value, list | dict):
        return 0, 0
    inner = [counts(each) for each in (value.values() if isinstance(value, dict) else value)]
    names = len(value) if isinstance(value, dict) else 0
    return 1 + names + sum(own for own, _ in inner), max(0, len(value) - 1) + sum(commas for _, commas in inner)


@given(VALUES, st.booleans())
def test_values_are_counted(value: object, ascii_only: bool) -> None:
    own, commas = counts(value)
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert count_values(body, len(body)) == own + commas // NUMBERS_A_VALUE


def test_counting_ends_at_enough_texts() -> None:
    assert count_values(b'["a","b","c",[]]', 2) == 3
