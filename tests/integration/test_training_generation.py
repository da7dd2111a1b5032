"""`python -m training train` for language models: from scratch in both shapes, and further from a folder."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from runtime.contract import Finish, Sampling
from runtime.generation import GenerationEngine
from runtime.load import load_engine
from runtime.manifest import read_manifest
from training.compression.command import main as compress
from training.train import main as train

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of five sentences over and over, and a recipe."""
    folder = tmp_path_factory.mktemp("generation")
    animals = ("cat", "hen", "dog", "cow", "owl")
    chance = random.Random(1)
    lines = (f"the {animal} sat on the mat and sang\n" for animal in chance.choices(animals, k=1500))
    (folder / "text.txt").write_text("".join(lines))
    (folder / "recipe.yaml").write_text(
        f"name: tiny\nruns: {folder}/runs\n"
        "model: {kind: generation, vocab_size: 300, max_tokens: 32, layers: 2, hidden: 32, heads: 2, dropout: 0.0}\n"
        f"data: {{train: {folder}/text.txt}}\n"
        "train: {learning_rate: 1.0e-2, steps: 60, batch_size: 8, validate_every: 30}\n"
    )
    return folder


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_from_scratch_it_beats_counting_and_generates(place: Path, architecture: str) -> None:
    run = place / "runs" / architecture
    overrides = [f"name={architecture}", f"model.architecture={architecture}"]
    assert train([str(place / "recipe.yaml"), *overrides]) == 0
    manifest = read_manifest(run / "checkpoint")
    assert (manifest.kind, manifest.format, manifest.architecture) == ("generation", "torch", architecture)
    assert manifest.causal is not None
    assert (manifest.causal.layers, manifest.causal.head_dim, manifest.max_tokens) == (2, 16, 32)
    assert manifest.causal.eos_token_ids == (0,)
    record = json.loads((run / "train.json").read_text())
    assert record["test"]["perplexity"] < 0.5 * record["unigram_perplexity"]
    assert record["best"]["metric"] == "loss"

    engine = load_engine(run / "checkpoint")
    assert isinstance(engine, GenerationEngine)
    try:
        *tokens, last = engine.generate("the hen sat on", Sampling(max_tokens=6, temperature=0))
    finally:
        engine.close()
    assert isinstance(last, Finish)
    assert "".join(token.text for token in tokens).startswith(" the mat")  # type: ignore[union-attr]


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_compressed_it_is_as_good_on_text_that_was_held_out(place: Path, architecture: str) -> None:
    recipe = [str(place / "recipe.yaml"), f"name={architecture}", f"model.architecture={architecture}"]
    if not (place / "runs" / architecture / "checkpoint").exists():
        assert train(recipe) == 0
    assert compress(recipe) == 0
    steps = read_manifest(place / "runs" / architecture / "int8").steps
    assert [step.name for step in steps] == ["export", "int8"]
    fp32, int8 = (step.quality["perplexity"] for step in steps)
    assert abs(int8 / fp32 - 1) < 0.01


def test_a_base_is_trained_further_with_its_own_tokenizer(place: Path) -> None:
    scratch = place / "runs/first/checkpoint"
    if not scratch.exists():
        assert train([str(place / "recipe.yaml"), "name=first"]) == 0
    before = read_manifest(scratch)
    recipe = place / "further.yaml"
    recipe.write_text(
        f"name: further\nruns: {place}/runs\n"
        f"model: {{kind: generation, base: {scratch}, max_tokens: 24}}\n"
        f"data: {{train: {place}/text.txt}}\n"
        "train: {learning_rate: 3.0e-3, steps: 40, batch_size: 8, validate_every: 20}\n"
    )
    assert train([str(recipe)]) == 0
    after = read_manifest(place / "runs/further/checkpoint")
    assert after.max_tokens == 24
    assert after.causal == before.causal
    perplexities = [
        next(each for each in manifest.evaluations if each.split == "test").metrics["perplexity"]
        for manifest in (before, after)
    ]
    assert perplexities[1] < perplexities[0]


def test_what_cannot_be_trained_is_said(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(place / "recipe.yaml")
    for overrides, message in (
        (["model.heads=5"], "hidden 32 must be a multiple of heads 5"),
        (["model.max_tokens=200000"], "less than one block"),
        ([f"data.train={place}/none.txt"], "no such file"),
    ):
        assert train([recipe, "name=refused", *overrides, "--fresh"]) == 1
        assert message in capsys.readouterr().err
