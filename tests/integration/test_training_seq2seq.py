"""`python -m training train` for encoder-decoders: from scratch, further from a folder, compressed, refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from runtime.contract import Finish, Sampling
from runtime.generation import GenerationEngine
from runtime.load import load_engine
from runtime.manifest import read_manifest
from training.compression.command import main as compress
from training.evaluate import main as evaluate
from training.explain.command import main as explain
from training.train import main as train

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
RECIPE = str(ROOT / "training/recipes/demo-seq2seq.yaml")
STEPS = ["train.steps=160", "train.validate_every=80"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled dates, less of valid and test, and the demo's recipe for two fifths of its steps."""
    folder = tmp_path_factory.mktemp("seq2seq")
    for split, count in (("train", 4000), ("valid", 40), ("test", 40)):
        lines = (ROOT / f"training/samples/dates/{split}.csv").read_text(encoding="utf-8").splitlines()
        (folder / f"{split}.csv").write_text("\n".join(lines[: count + 1]) + "\n", encoding="utf-8")
    return folder


def arguments(place: Path, *more: str) -> list[str]:
    files = [f"data.{split}={place}/{split}.csv" for split in ("train", "valid", "test")]
    return [RECIPE, f"runs={place}/runs", *files, *STEPS, *more]


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    assert train(arguments(place)) == 0
    return place / "runs/seq2seq"


def test_from_scratch_it_learns_to_write_days(run: Path) -> None:
    manifest = read_manifest(run / "checkpoint")
    assert (manifest.kind, manifest.format, manifest.architecture) == ("generation", "torch", "bart")
    assert manifest.causal is not None
    assert (manifest.causal.layers, manifest.causal.head_dim, manifest.max_tokens) == (2, 16, 48)
    assert manifest.causal.start_token_ids == manifest.causal.eos_token_ids == (0,)
    record = json.loads((run / "train.json").read_text())
    assert record["best"]["metric"] == "loss"
    # What days look like is worth 3 or so: below that, the source is read.
    assert record["test"]["perplexity"] < 2.3


def test_compressed_it_is_as_good_and_writes_days_from_text(run: Path, place: Path) -> None:
    assert compress(arguments(place)) == 0
    steps = read_manifest(run / "int8").steps
    assert [step.name for step in steps] == ["export", "int8"]
    fp32, int8 = (step.quality["perplexity"] for step in steps)
    assert abs(int8 / fp32 - 1) < 0.01
    assert evaluate([str(run / "int8"), "--json"]) == 0
    with (place / "test.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    engine = load_engine(run / "int8", slots=2)
    assert isinstance(engine, GenerationEngine)
    written = []
    for row in rows:
        *tokens, last = engine.generate(row["source"], Sampling(max_tokens=16, temperature=0))
        assert isinstance(last, Finish)
        written.append("".join(token.text for token in tokens) + last.text)  # type: ignore[union-attr]
    engine.close()
    exact = sum(text == row["target"] for text, row in zip(written, rows, strict=True)) / len(rows)
    found = next(each for each in read_manifest(run / "int8").evaluations if each.split == "test")
    assert found.metrics["exact_match"] == pytest.approx(exact)


def test_it_is_explained_by_what_its_targets_cost(run: Path) -> None:
    assert explain([str(run), "--skip", "inference"]) == 0
    found = json.loads((run / "explain.json").read_text(encoding="utf-8"))["topics"]["language"]
    metrics = next(each for each in read_manifest(run / "checkpoint").evaluations if each.split == "valid").metrics
    assert found["tokens"] == metrics["tokens"]
    assert found["perplexity"]["value"] == pytest.approx(metrics["perplexity"], abs=1e-4)
    assert found["bits_per_byte"] == pytest.approx(metrics["bits_per_byte"], abs=1e-4)
    assert [place for place, _ in found["by_position"]][:3] == [1, 2, 3]


def test_a_t5_is_trained_and_compressed_by_the_same_recipe(place: Path) -> None:
    recipe = arguments(place, "name=t5", "model.architecture=t5", "train.steps=6", "train.validate_every=3")
    assert train(recipe) == 0
    assert compress([*recipe, "compress.precisions=[fp32]"]) == 0
    before, after = (read_manifest(place / "runs/t5" / each) for each in ("checkpoint", "fp32"))
    assert (after.architecture, after.max_tokens, after.causal) == ("t5", 48, before.causal)
    metrics = next(each for each in before.evaluations if each.split == "valid").metrics
    assert after.steps[-1].quality["perplexity"] == pytest.approx(metrics["perplexity"], rel=1e-3)


def test_a_base_is_trained_further_with_its_own_tokenizer(run: Path, place: Path) -> None:
    recipe = place / "further.yaml"
    recipe.write_text(
        f"name: further\nruns: {place}/runs\n"
        f"model: {{kind: seq2seq, base: {run}/checkpoint, max_tokens: 40}}\n"
        f"data: {{train: {place}/train.csv, valid: {place}/valid.csv, test: {place}/test.csv}}\n"
        "train: {learning_rate: 1.0e-3, steps: 30, batch_size: 32, validate_every: 30}\n"
    )
    assert train([str(recipe)]) == 0
    before, after = (read_manifest(each / "checkpoint") for each in (run, place / "runs/further"))
    assert (after.max_tokens, after.causal) == (40, before.causal)
    perplexities = [
        next(each for each in manifest.evaluations if each.split == "test").metrics["perplexity"]
        for manifest in (before, after)
    ]
    assert perplexities[1] < perplexities[0]


def test_what_cannot_be_trained_is_said(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for overrides, code, message in (
        (["model.heads=5"], 1, "hidden 64 must be a multiple of heads 5"),
        (["data.columns.source=before"], 1, "no column 'before'"),
        (["data.leakage=fail", f"data.test={place}/valid.csv"], 1, "has the same source as"),
        (["model.kind=generation", "model.architecture=bart"], 2, "it is one for seq2seq"),
        (["model.base=.", "model.layers=5"], 2, "layers, vocab_size: these come with the base"),
    ):
        assert train(arguments(place, "name=refused", *overrides, "--fresh")) == code
        assert message in capsys.readouterr().err
