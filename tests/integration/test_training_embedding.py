"""A bi-encoder from groups of texts to a published artifact: killed and resumed, refused, compressed, evaluated."""

from __future__ import annotations

import json
import random
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import PreTrainedTokenizerFast

from runtime.contract import Embedding, Pair, PairResult
from runtime.embedding import EmbeddingEngine, cosine
from runtime.load import load_engine
from runtime.manifest import read_manifest
from runtime.store import ModelStore
from tests.integration.test_publish import training
from tests.integration.test_training_matching import ENVIRON, command, wait_for_checkpoint
from tests.unit.training.tiny import WORDS, encoder_folder, write_jsonl
from training.compression.command import main as compress
from training.evaluate import main as evaluate
from training.train import main as train

pytestmark = pytest.mark.integration
STEPS, EVERY = 40, 5


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base, pairs that match when their word is the same, the words as groups, and a recipe."""
    folder = tmp_path_factory.mktemp("embedding")
    encoder_folder(folder / "base")
    # sentence-transformers, which the saved folder is held to, pads.
    PreTrainedTokenizerFast.from_pretrained(folder / "base", pad_token="<end>").save_pretrained(folder / "base")
    chance = random.Random(5)

    def text(word: str) -> str:
        return f"{word} {chance.randrange(10**6)}"

    for split, count in (("train", 80), ("valid", 60), ("test", 80)):
        rows = []
        for number in range(count):
            one, other = chance.sample(WORDS, 2)
            same = number % 2
            rows.append({"text_a": text(one), "text_b": text(one if same else other), "label": same})
        write_jsonl(folder / f"{split}.jsonl", rows)
    write_jsonl(folder / "groups.jsonl", [{"text": text(word), "word": word} for word in WORDS for _ in range(20)])
    (folder / "recipe.yaml").write_text(
        f"name: tiny\nruns: {folder}/runs\n"
        f"model: {{kind: embedding, base: {folder}/base, max_tokens: 24, dropout: 0.1}}\n"
        f"data: {{train: {folder}/train.jsonl, valid: {folder}/valid.jsonl, test: {folder}/test.jsonl,\n"
        f"  groups: {folder}/groups.jsonl, columns: {{group: word}}}}\n"
        f"train: {{learning_rate: 2.0e-3, steps: {STEPS}, validate_every: {EVERY}, batch_size: 16}}\n"
    )
    return folder


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """The run `tiny`, uninterrupted."""
    done = subprocess.run(command(place), capture_output=True, text=True, timeout=300, env=ENVIRON)
    assert done.returncode == 0, done.stderr
    assert "data groups 200 of 200 texts, 10 groups of 20 to 20" in done.stdout
    return place / "runs/tiny"


def engine_of(directory: Path) -> EmbeddingEngine:
    engine = load_engine(directory)
    assert isinstance(engine, EmbeddingEngine)
    return engine


def test_the_checkpoint_is_a_bi_encoder_of_sentence_transformers_layout(whole: Path) -> None:
    manifest = read_manifest(whole / "checkpoint")
    assert (manifest.kind, manifest.format, manifest.dimensions, manifest.max_tokens) == ("embedding", "torch", 32, 24)
    assert set(manifest.datasets) == {"train", "valid", "test", "groups"}
    figures = {each.split: each.metrics for each in manifest.evaluations}
    # Untrained, the same encoder is at 0.6; the word is all there is to learn.
    assert figures["test"]["roc_auc"] > 0.9
    assert manifest.threshold == pytest.approx(figures["test"]["threshold"], abs=1e-6)
    # The vectors of the groups were for the training only.
    assert not any("prototypes" in name for name in load_file(whole / "checkpoint/model.safetensors"))
    texts = ["card 1", "rate 2", "card 345678"]
    engine = engine_of(whole / "checkpoint")
    ours = [result.vector for result in engine.embed(texts) if isinstance(result, Embedding)]
    theirs = SentenceTransformer(str(whole / "checkpoint"), device="cpu").encode(texts)
    assert ours == [pytest.approx(vector, abs=1e-5) for vector in theirs]
    engine.close()


def test_the_log_has_the_validations_and_their_loss(whole: Path) -> None:
    entries = [json.loads(line) for line in (whole / "train_log.jsonl").read_text().splitlines()]
    valid = [entry for entry in entries if "valid_loss" in entry]
    assert [entry["step"] for entry in valid] == list(range(EVERY, STEPS + 1, EVERY))
    assert valid[-1]["valid_loss"] < valid[0]["valid_loss"]
    best = json.loads((whole / "train.json").read_text())["best"]
    assert best["value"] == pytest.approx(max(entry["valid_average_precision"] for entry in valid), abs=1e-5)
    assert (whole / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_killed_and_started_again_it_ends_with_the_very_same_weights(place: Path, whole: Path) -> None:
    run = place / "runs/killed"
    process = subprocess.Popen(
        command(place, "name=killed"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=ENVIRON
    )
    try:
        wait_for_checkpoint(run / "trainer", 2 * EVERY, process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not (run / "checkpoint").exists()
    resumed = subprocess.run(command(place, "name=killed"), capture_output=True, text=True, timeout=300, env=ENVIRON)
    assert resumed.returncode == 0, resumed.stderr
    assert STEPS > json.loads((run / "train.json").read_text())["resumed_after_steps"][0] >= EVERY
    weights, expected = (load_file(each / "checkpoint/model.safetensors") for each in (run, whole))
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(weights[name], value), name


def test_with_other_groups_it_is_refused(place: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (place / "groups.jsonl").read_text().splitlines()
    (place / "fewer.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    recipe = str(place / "recipe.yaml")
    assert train([recipe, f"data.groups={place}/fewer.jsonl"]) == 1
    assert "rows of data.groups: was" in capsys.readouterr().err
    # The same texts from elsewhere are the same.
    (place / "moved.jsonl").write_text("\n".join(lines) + "\n")
    assert train([recipe, f"data.groups={place}/moved.jsonl"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert train([recipe, "model.loss=contrastive"]) == 1
    assert "model.loss: was proxy, is contrastive" in capsys.readouterr().err


def test_positive_pairs_and_the_contrastive_loss_teach_it_too(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.loads(line) for line in (place / "groups.jsonl").read_text().splitlines()]
    pairs = [{"text_a": a["text"], "text_b": b["text"], "label": int(a["word"] == b["word"])} for a, b in
             zip(rows, [*rows[1:], rows[0]], strict=True)]  # fmt: skip
    write_jsonl(place / "joined.jsonl", pairs)
    settings = ["name=joined", "data.groups=null", f"data.train={place}/joined.jsonl", "model.loss=contrastive"]
    assert train([str(place / "recipe.yaml"), *settings]) == 0
    told = capsys.readouterr().out
    assert "data groups 200 of 200 texts, 10 groups of 20 to 20" in told
    figures = {each.split: each.metrics for each in read_manifest(place / "runs/joined/checkpoint").evaluations}
    assert figures["test"]["roc_auc"] > 0.9


def test_a_new_encoder_is_trained_exported_and_read_back(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape = "{architecture: textcnn, vocab_size: 300, embedding: 32, hidden: 32}"
    recipe = [str(place / "recipe.yaml"), "name=new", "model.base=null", f"model.encoder={shape}"]
    assert train(recipe) == 0, capsys.readouterr().err
    assert compress(recipe) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert evaluate([*recipe, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [(each["format"], each["precision"]) for each in results] == [
        ("torch", "fp32"), ("onnx", "fp32"), ("onnx", "int8"),
    ]  # fmt: skip
    assert all(each["metrics"]["roc_auc"] > 0.9 for each in results)


def test_compressed_evaluated_and_published_it_scores_as_it_was_trained(
    place: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(place / "recipe.yaml")
    assert compress([recipe]) == 0
    capsys.readouterr()
    chosen = [read_manifest(whole / name).threshold for name in ("checkpoint", "fp32", "int8")]
    assert evaluate([recipe, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [each["precision"] for each in results] == ["fp32", "fp32", "int8"]
    assert all(each["same_rows_as_training"] and each["metrics"]["roc_auc"] > 0.9 for each in results)
    # Chosen on valid when each was made, and left alone by whoever evaluates.
    assert [each["metrics"]["threshold"] for each in results] == pytest.approx(chosen, abs=1e-6)
    assert [read_manifest(whole / name).threshold for name in ("checkpoint", "fp32", "int8")] == chosen

    done = training(tmp_path, "publish", recipe, "--precision", "int8")
    assert done.returncode == 0, done.stderr
    engine = engine_of(ModelStore(tmp_path).resolve("tiny").path)
    alike, other = engine.score([Pair("fee 31", "fee 4159"), Pair("fee 31", "loan 27")])
    assert isinstance(alike, PairResult)
    assert isinstance(other, PairResult)
    assert alike.score > other.score
    one, two = engine.embed(["fee 31", "fee 4159"])
    assert isinstance(one, Embedding)
    assert isinstance(two, Embedding)
    assert alike.score == pytest.approx((1 + cosine(one.vector, two.vector)) / 2, abs=1e-3)
    engine.close()
