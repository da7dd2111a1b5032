"""The texts: repeatable by seed, never repeated by a user, varied."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtests.texts import TextSource

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[3]
DRAWS: dict[str, Callable[[TextSource], object]] = {
    "match": lambda source: source.pair(),
    "rerank": lambda source: source.query(3),
    "completion": lambda source: source.prompt(),
}


@pytest.mark.parametrize("kind", DRAWS)
def test_the_same_seed_and_user_give_the_same_texts_and_another_gives_others(kind: str) -> None:
    def texts(seed: int, user: int) -> list[object]:
        source = TextSource(seed, kind, user, max_words=80)
        return [DRAWS[kind](source) for _ in range(50)]

    assert texts(7, 0) == texts(7, 0)
    assert texts(7, 0) != texts(8, 0)
    assert not set(texts(7, 0)) & set(texts(7, 1))


def test_the_texts_do_not_depend_on_the_hash_seed_of_the_process() -> None:
    code = (
        "from loadtests.texts import TextSource; s = TextSource(7, 'match', 0, 80); print([s.pair() for _ in 'x' * 20])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(outputs) == 1


@pytest.mark.parametrize("kind", DRAWS)
def test_no_user_repeats_itself_even_with_the_shortest_texts(kind: str) -> None:
    source = TextSource(7, kind, 0, max_words=12)
    drawn = [DRAWS[kind](source) for _ in range(3000)]
    assert len(set(drawn)) == len(drawn)


def test_lengths_vary_up_to_the_limit_and_some_texts_are_in_other_scripts() -> None:
    source = TextSource(7, "match", 0, max_words=80)
    texts = [text for _ in range(500) for text in source.pair()]
    lengths = sorted(len(text.split()) for text in texts)
    assert lengths[-1] == 80
    assert lengths[len(lengths) // 10] < 8
    assert lengths[len(lengths) * 9 // 10] > 35
    assert any(not text.isascii() for text in texts)


def test_too_few_words_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 12"):
        TextSource(7, "match", 0, max_words=11)
