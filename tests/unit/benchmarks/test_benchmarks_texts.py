"""The texts that are sent, and the checkpoint that peers are given."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks.single_logit import write_single_logit
from benchmarks.texts import queries, read_pairs, spaced, write_bodies
from runtime.contract import Pair

pytestmark = pytest.mark.unit


def test_pairs_are_distinct_and_in_order(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps({"text_a": a, "text_b": "x", "label": 1}) + "\n" for a in "abac"))
    assert [pair.text_a for pair in read_pairs([file, file])] == ["a", "b", "c"]


def test_a_sample_is_from_all_over() -> None:
    pairs = [Pair(str(number), "") for number in range(100)]
    assert [pair.text_a for pair in spaced(pairs, 4)] == ["0", "25", "50", "75"]
    assert len(spaced(pairs, 1000)) == 100


def test_queries_ask_every_pair_once() -> None:
    pairs = [Pair(f"a{number}", f"b{number}") for number in range(10)]
    asked = queries(pairs, 4)
    assert asked == [("a0", ["b0", "b1", "b2", "b3"]), ("a4", ["b4", "b5", "b6", "b7"])]


def test_bodies_are_one_a_line(tmp_path: Path) -> None:
    path = write_bodies(tmp_path / "deep" / "bodies", ["a\nb", "c"], lambda text: {"text": text})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"text": "a\nb"}, {"text": "c"}]


def test_one_logit_is_the_difference_of_two(tmp_path: Path) -> None:
    checkpoint = tmp_path / "two"
    checkpoint.mkdir()
    weights = {
        "bert.x": np.ones((2, 3), np.float32),
        "classifier.weight": np.array([[1, 2, 3], [4, 4, 4]], np.float32),
        "classifier.bias": np.array([1, 5], np.float32),
    }
    save_file(weights, checkpoint / "model.safetensors")
    (checkpoint / "config.json").write_text(json.dumps({"problem_type": "x", "id2label": {"0": "0", "1": "1"}}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (checkpoint / name).write_text("{}")
    write_single_logit(checkpoint, 1, tmp_path / "one")
    folded = load_file(tmp_path / "one" / "model.safetensors")
    assert folded["classifier.weight"].tolist() == [[3, 2, 1]]
    assert folded["classifier.bias"].tolist() == [4]
    np.testing.assert_array_equal(folded["bert.x"], weights["bert.x"])
    config = json.loads((tmp_path / "one" / "config.json").read_text())
    assert (len(config["id2label"]), "problem_type" in config) == (1, False)
