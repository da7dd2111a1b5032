"""What makes two texts one, which rows contradict each other, and what is far from everything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.review.contradictions import LONGEST_CHAIN, Contradiction, contradictions
from training.review.label_errors import judge
from training.review.near_duplicates import groups, normalise
from training.review.outliers import outliers
from training.review.planted import plant

pytestmark = pytest.mark.unit


def apart(count: int) -> np.ndarray:
    """Vectors of which none is near another."""
    return np.eye(count, dtype=np.float32)


def same(one: str, other: str, vectors: np.ndarray | None = None) -> bool:
    first, second = groups([one, other], apart(2) if vectors is None else vectors)
    return bool(first == second)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("When will my card arrive?", "when will my CARD arrive"),
        (
            "I would like to know when exactly my new card will arrive",
            "I would like to know when exactly my card will arrive",
        ),
        ("请问我的银行卡什么时候可以寄到我的家里", "请问我的银行卡什么时候可以寄到我家里"),
        ("我的卡片!", "我的卡片。"),
        ("ＡＢＣ １２", "abc 12"),
    ],
)
def test_almost_the_same(one: str, other: str) -> None:
    assert same(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("When will my card arrive?", "Why was my card declined?"),
        ("the order with the number 12 has not arrived at all", "the order with the number 13 has not arrived at all"),
        ("请问我的银行卡什么时候可以寄到", "为什么我的转账一直没有到账呢"),
        ("?", "!"),
    ],
)
def test_not_the_same(one: str, other: str) -> None:
    assert not same(one, other)


def test_vectors_join_what_shares_half_its_letters_and_nothing_else() -> None:
    near = np.ones((2, 4), np.float32) / 2
    assert not same("how do I freeze the lost card", "how do I freeze my lost card now")
    assert same("how do I freeze the lost card", "how do I freeze my lost card now", near)
    assert not same("how do I freeze the lost card", "transfer is pending", near)


def test_many_copies_are_one_group() -> None:
    texts = [f"{'!' * number} where is my card" for number in range(200)] + ["something else entirely"]
    found = groups(texts, apart(len(texts)))
    assert len(set(found[:-1])) == 1
    assert found[-1] != found[0]


@given(st.text(max_size=20))
def test_a_normalised_text_stays(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_a_match_too_many_is_a_contradiction_of_three() -> None:
    pairs = [(0, 1), (1, 2), (0, 2), (3, 4), (0, 3)]
    match = [True, True, False, True, False]
    assert contradictions(pairs, match) == [Contradiction(apart=2, chain=(0, 1))]


def test_the_shortest_chain_is_told_and_long_ones_are_left_alone() -> None:
    chain = [(place, place + 1) for place in range(LONGEST_CHAIN + 1)]
    match = [True] * len(chain)
    assert contradictions([*chain, (0, LONGEST_CHAIN)], [*match, False])[0].chain == tuple(range(LONGEST_CHAIN))
    assert contradictions([*chain, (0, LONGEST_CHAIN + 1)], [*match, False]) == []
    assert contradictions([*chain, (0, 2), (0, 3)], [*match, True, False])[0].chain == (4, 2)


def test_an_outlier_is_far_from_all() -> None:
    random = np.random.default_rng(3)
    vectors = np.concatenate([random.normal(size=(60, 16)) * 0.2 + 1, -np.ones((1, 16))]).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert set(outliers(vectors)) == {60}
    assert outliers(vectors[50:]) == {}  # too few to say


def test_planted_errors_are_as_many_as_asked_and_always_another_label() -> None:
    labels = np.arange(200) % 3
    changed, planted = plant(labels, 3, 0.1, seed=1)
    assert planted.sum() == 20
    assert (changed[planted] != labels[planted]).all()
    assert (changed[~planted] == labels[~planted]).all()


def test_the_least_likely_label_ranks_first() -> None:
    likely = np.array([[0.9, 0.1], [0.8, 0.2], [0.05, 0.95], [0.2, 0.8]] * 20)
    labels = np.array([0, 0, 1, 1] * 20)
    labels[2] = 0  # 5 % likely
    judged = judge(labels, likely)
    assert judged.ranks[2] == 1
    assert judged.wrong[2]
    assert judged.wrong.sum() == 1
