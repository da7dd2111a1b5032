"""Behavioural tests catch the models that they are for; attributions point at the words that count."""

from __future__ import annotations

import random

import numpy as np
import pytest

from runtime.contract import Pair
from tests.unit.training.explain.subject import CHINESE, by_overlap, first_text_only, pair_rows, scored
from training.explain import rewrites
from training.explain.attribution import occlusion
from training.explain.behaviours import TESTS, Behaviour, run
from training.explain.contract import Score

pytestmark = pytest.mark.unit
CHANCE = random.Random(1)


def outcome(name: str, score: Score, words: tuple[str, ...] = (), between: str = " ") -> Behaviour:
    rows = pair_rows(80, 4, *((words, between) if words else ()))
    found = score([Pair(row["text_a"], row["text_b"]) for row in rows])
    data = scored(rows, found.tolist(), threshold=0.5)
    result = run(next(test for test in TESTS if test.name == name), data, score, seed=3)
    assert result is not None
    return result


def test_a_symmetric_model_has_no_swap_failure_and_an_asymmetric_one_is_caught() -> None:
    assert outcome("swapped texts", by_overlap).failed == 0
    caught = outcome("swapped texts", first_text_only)
    assert caught.failed > 40
    assert caught.rate.low > 0.5
    example = caught.failures[0]
    assert (example.changed_a, example.changed_b) == (example.text_b, example.text_a)
    assert {example.score, example.changed_score} == {0.0, 1.0}


def test_what_a_model_must_not_look_at_is_caught() -> None:
    def by_spaces(pairs: list[Pair]) -> np.ndarray:
        return np.asarray([float("  " in pair.text_b) for pair in pairs])

    def rises_when_denied(pairs: list[Pair]) -> np.ndarray:
        return np.asarray([0.6 + 0.3 * ("不" in pair.text_b) for pair in pairs])

    assert outcome("more spaces", by_overlap).failed == 0
    assert outcome("more spaces", by_spaces).rate.value == 1.0
    assert outcome("a text with itself", by_overlap).failed == 0
    assert outcome("a text with itself", by_spaces).failed == 80
    number = outcome("another number", by_overlap)
    assert (number.failed, number.rule) == (0, "no higher score")
    words = (*CHINESE[:6], "这是", "可以")
    assert outcome("negated", rises_when_denied, words, "").failed > 0


def test_what_changes_nothing_is_no_failure() -> None:
    chance = np.random.default_rng(1)

    def noisy(pairs: list[Pair]) -> np.ndarray:
        return 0.5 + chance.uniform(-1e-7, 1e-7, len(pairs))

    found = outcome("other case", noisy)
    assert (found.failed, found.failures) == (0, ())
    rows = [{"text_a": "pin", "text_b": "pin", "label": 1}, {"text_a": "pin", "text_b": "card", "label": 0}]
    swapped = run(TESTS[0], scored(rows, [0.9, 0.1]), lambda pairs: np.zeros(len(pairs)), seed=3)
    assert swapped is not None
    assert swapped.tested == 1


@pytest.mark.parametrize(
    ("rewrite", "text", "expected"),
    [
        (rewrites.other_case, "My PIN", "my pin"),
        (rewrites.other_case, "my pin", "MY PIN"),
        (rewrites.other_case, "密码", None),
        (rewrites.spaces, "a b", " a  b "),
        (rewrites.punctuation, "where is it?", "where is it"),
        (rewrites.punctuation, "where is it", "where is it."),
        (rewrites.punctuation, "在哪里", "在哪里。"),
        (rewrites.negated, "How can I pay?", "How can I not pay?"),
        (rewrites.negated, "The card is here", "The card is not here"),
        (rewrites.negated, "I cannot pay", None),
        (rewrites.negated, "他是作家", "他不是作家"),
        (rewrites.negated, "他没来", None),
        (rewrites.other_number, "pay 19 now", "pay 42 now"),
        (rewrites.other_number, "pay now", None),
    ],
)
def test_rewrites(rewrite: rewrites.Rewrite, text: str, expected: str | None) -> None:
    assert rewrite(text, CHANCE) == expected


@pytest.mark.parametrize(
    ("rewrite", "expected"),
    [
        (rewrites.other_case, "COL title VAL COL maker VAL acme COL price VAL 199"),
        (rewrites.other_number, "COL title VAL COL maker VAL Acme COL price VAL 422"),
        (rewrites.negated, None),
    ],
)
def test_of_a_record_only_a_value_is_rewritten(rewrite: rewrites.Rewrite, expected: str | None) -> None:
    record = "COL title VAL COL maker VAL Acme COL price VAL 199"
    assert rewrites.rewritten(rewrite, record, CHANCE) == expected
    assert rewrites.rewritten(rewrites.other_case, "My PIN", CHANCE) == "my pin"


def test_a_typo_changes_two_letters_within_a_word() -> None:
    changed = rewrites.typo("my payment failed", CHANCE)
    assert changed is not None
    assert changed != "my payment failed"
    assert sorted(changed) == sorted("my payment failed")
    assert rewrites.typo("a b c", CHANCE) is None
    chinese = rewrites.typo("我的卡片在哪里", CHANCE)
    assert chinese is not None
    assert len(chinese) == 8


def test_the_words_that_count_have_the_weight() -> None:
    def by_fee(pairs: list[Pair]) -> np.ndarray:
        return np.asarray([0.1 + 0.5 * ("fee" in pair.text_a) - 0.2 * ("卡" in pair.text_b) + 0.2 for pair in pairs])

    (found,) = occlusion([Pair("what fee, please", "银行卡")], by_fee)
    assert {piece.text: piece.weight for piece in found.a if piece.weight} == {"fee": 0.5}
    assert {piece.text: piece.weight for piece in found.b if piece.weight} == {"卡": -0.2}
    assert "".join(piece.text for piece in found.a) == "what fee, please"
    assert found.largest == 0.5
