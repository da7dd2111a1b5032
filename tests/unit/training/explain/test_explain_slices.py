"""Slices: a planted bad one is found, chance finds hardly any, and properties are read in any script."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.training.explain.subject import CHINESE, pair_rows, scored
from training.data.pairs import LabelledPair
from training.explain import features, slices
from training.explain.segments import fields, script, terms, words

pytestmark = pytest.mark.unit


def rows_with(count: int, seed: int = 5) -> tuple[list[dict], dict, dict]:
    rows = pair_rows(count, seed)
    values = features.features(scored(rows, [0.9] * count), [])
    terms_ = features.term_rows(scored(rows, [0.9] * count).rows, slices.least_rows(count), 100)
    return rows, values, terms_


def test_a_planted_slice_is_found_first_and_its_rows_are_named() -> None:
    _, values, terms_ = rows_with(600)
    random = np.random.default_rng(1)
    inside = terms_["loan"] & (np.asarray(values["numbers"]) == "different")
    wrong = random.random(600) < np.where(inside, 0.6, 0.08)
    found = slices.worse(wrong, values, terms_)
    conditions = {(each.feature, each.value) for each in found[0].conditions}
    assert conditions <= {("numbers", "different"), ("word", "loan")}
    assert conditions
    assert found[0].rate.low > 0.08
    assert found[0].q < 0.05
    both = [each for each in found if len(each.conditions) == 2]
    assert {("numbers", "different"), ("word", "loan")} in [
        {(one.feature, one.value) for one in each.conditions} for each in both
    ]
    assert np.array_equal(slices.members(both[0], values, terms_), inside)


def test_errors_by_chance_make_hardly_any_slice() -> None:
    _, values, terms_ = rows_with(600)
    found = [slices.worse(np.random.default_rng(seed).random(600) < 0.15, values, terms_) for seed in range(20)]
    assert sum(map(bool, found)) <= 4  # 5 % of 20, twice, and luck
    assert slices.worse(np.zeros(600, bool), values, terms_) == []
    assert slices.worse(np.ones(600, bool), values, terms_) == []


def test_rates_by_value_are_counts_of_their_rows() -> None:
    _, values, _ = rows_with(300)
    marked = np.asarray(values["numbers"]) == "none"
    found = {each.conditions[0].value: each for each in slices.by_value(marked, {"numbers": values["numbers"]})}
    assert (found["none"].marked, found["none"].rate.value) == (found["none"].rows, 1.0)
    assert found["different"].marked == 0
    assert found["different"].rate_outside == pytest.approx(marked.sum() / (300 - found["different"].rows), abs=1e-6)
    assert sum(each.rows for each in found.values()) == 300


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("Why isn't it here?", "Where is it?", {"negation": "one"}),
        ("pay 20", "pay 20 now", {"numbers": "same"}),
        ("pay 20", "pay 30", {"numbers": "different"}),
        ("my card in Paris", "my card in London", {"entities": "different"}),
        ("我不知道", "我知道", {"negation": "one", "script": "Han"}),
        ("他没有去过北京", "他不曾去过北京", {"negation": "both"}),
        ("他住在北京", "他2019年住在北京", {"numbers": "different"}),
        ("《红楼梦》的作者", "《西游记》的作者", {"entities": "different"}),
        ("привет", "hello", {"script": "Cyrillic+Latin"}),
        ("COL title VAL tv 40 COL price VAL 9", "COL title VAL tv 40 COL price VAL ", {
            "COL title": "same", "COL price": "missing", "entities": "same",
        }),
    ],
)  # fmt: skip
def test_properties_of_a_pair(a: str, b: str, expected: dict[str, str]) -> None:
    # The other rows have each property otherwise, so that none is left out.
    others = [
        ("a!", "b not 1"),
        ("x A1 in Rome", "y in Rome 2 not"),
        ("12 否 é", "12 没 é"),
        ("COL title VAL x COL price VAL 1", "COL title VAL y COL price VAL 1"),
    ]
    rows = [{"text_a": x, "text_b": y, "label": 1} for x, y in [(a, b), *others]]
    found = features.features(scored(rows, [0.9] * len(rows)), [])
    assert {name: found[name][0] for name in expected} == expected


def test_words_that_train_never_had_are_counted() -> None:
    train = [LabelledPair("my card", "the card", "1", "x:1")]
    rows = [{"text_a": "my card", "text_b": text, "label": 1} for text in ("The card", "new card", "new blue card")]
    assert features.features(scored(rows, [1.0] * 3), train)["unseen words"] == ["0", "1", "≥ 2"]


def test_thirds_hold_their_numbers_and_equal_ones_stay_together() -> None:
    assert features.thirds([1, 2, 3, 4, 5, 6]) == ["≤ 3", "≤ 3", "≤ 3", "3 – 4", "> 4", "> 4"]
    assert set(features.thirds([7, 7, 7, 7])) == {"≤ 7"}


def test_segments_of_several_scripts() -> None:
    assert words("Can’t pay, 银行卡!") == ["can't", "pay", "银", "行", "卡"]
    assert terms("pay 银行卡") == {"pay", "银行", "行卡"}
    assert fields("COL name VAL a b COL price VAL 3") == {"name": "a b", "price": "3"}
    assert fields("COL name VAL COL price VAL 3 COL maker VAL") == {"name": "", "price": "3", "maker": ""}
    assert fields("COL battery life VAL 9 h") == {"battery life": "9 h"}
    assert fields("a COL is a word, VAL too") == {}
    assert (script("银行 ATM"), script("12"), script("abc")) == ("Han+Latin", "", "Latin")
    assert features.overlap("银行卡", "银行") == pytest.approx(2 / 3)
    assert pair_rows(2, 1, CHINESE, "")[0]["text_a"]
