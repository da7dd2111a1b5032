"""Bi-encoders from the folder to the engine, held to transformers and sentence-transformers, which made the folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from runtime.backends.fake import byte_tokenizer
from runtime.contract import Embedding, Pair, PairResult
from runtime.embedding import EmbeddingEngine
from runtime.errors import InvalidInput
from runtime.load import load_engine
from runtime.manifest import read_manifest
from runtime.store import ModelStore
from tests.integration.test_publish import training
from training.bases import packaged
from training.checkpoint import adopt_folder
from training.compression.artifact import make_artifact
from training.compression.export import Export
from training.compression.int8 import Int8
from training.compression.pipeline import folder_context
from training.evaluate import main as evaluate

pytestmark = pytest.mark.integration
TEXTS = ["When will my card arrive?", "Has my card been sent?", "Paris", "an exchange rate " * 40, "Ünïcode — 漢字"]
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT without a head, as transformers saves it."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("hub") / "encoder"
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=258, max_position_embeddings=66, **shape)).save_pretrained(folder)
    tokenizer = byte_tokenizer(pairs=True)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sentence_folder(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that sentence-transformers made: every pooling, a dense layer, Normalize, at most 50 tokens."""
    torch.manual_seed(4)
    network = modules.Transformer(str(encoder), max_seq_length=50)
    dense = modules.Dense(32 * len(POOLINGS), 24)
    folder = tmp_path_factory.mktemp("hub") / "sentence"
    made = [network, modules.Pooling(32, pooling_mode=POOLINGS), dense, modules.Normalize()]
    SentenceTransformer(modules=made, device="cpu").save_pretrained(str(folder))
    return folder


def engine_of(directory: Path) -> EmbeddingEngine:
    engine = load_engine(directory)
    assert isinstance(engine, EmbeddingEngine)
    return engine


def units(engine: EmbeddingEngine, texts: list[str]) -> np.ndarray:
    """(N, D) of length 1."""
    vectors = []
    for result in engine.embed(texts):
        assert isinstance(result, Embedding)
        vectors.append(result.vector / np.linalg.norm(result.vector))
    return np.stack(vectors)


def test_a_folder_of_sentence_transformers_gives_its_vectors(sentence_folder: Path, tmp_path: Path) -> None:
    reference = SentenceTransformer(str(sentence_folder), device="cpu").encode(TEXTS)
    adopt_folder(sentence_folder, tmp_path / "torch")
    context = folder_context(tmp_path / "torch", print)
    make_artifact(Export(tolerance=1e-5), context.checkpoint, tmp_path / "fp32", context)
    for name in ("torch", "fp32"):
        engine = engine_of(tmp_path / name)
        np.testing.assert_allclose(units(engine, TEXTS), reference, atol=1e-5)
        assert engine.manifest.kind == "embedding"
        assert (engine.manifest.dimensions, engine.manifest.max_tokens, engine.manifest.threshold) == (24, 50, 0.5)
        engine.close()


@pytest.mark.parametrize("pooling", [None, "cls"])
def test_an_encoder_without_a_head_is_a_bi_encoder_when_asked_for(
    encoder: Path, tmp_path: Path, pooling: str | None
) -> None:
    with pytest.raises(InvalidInput, match=r"holds BertModel; .* with --kind embedding, encoders without a head"):
        adopt_folder(encoder, tmp_path / "refused")
    adopt_folder(encoder, tmp_path / "torch", kind="embedding", pooling=pooling)
    # What was made is itself a folder of sentence-transformers.
    made = SentenceTransformer(str(tmp_path / "torch"), device="cpu")
    assert made[1].pooling_mode == (pooling or "mean")
    reference = made.encode(TEXTS, normalize_embeddings=True)
    engine = engine_of(tmp_path / "torch")
    np.testing.assert_allclose(units(engine, TEXTS), reference, atol=1e-5)
    engine.close()


def test_kind_and_pooling_are_refused_where_they_do_not_fit(
    encoder: Path, sentence_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="is of kind embedding, not matching"):
        adopt_folder(sentence_folder, tmp_path / "a", kind="matching")
    with pytest.raises(InvalidInput, match="--pooling is for an encoder without a head"):
        adopt_folder(sentence_folder, tmp_path / "a", kind="embedding", pooling="cls")
    with pytest.raises(InvalidInput, match="leave out --positive"):
        adopt_folder(sentence_folder, tmp_path / "a", positive="same")
    gpt = tmp_path / "gpt"
    shutil.copytree(encoder, gpt)
    (gpt / "config.json").write_text('{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_positions": 64}')
    with pytest.raises(InvalidInput, match="is of kind generation, not embedding"):
        adopt_folder(gpt, tmp_path / "b", kind="embedding")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which `embedding` is the packaged MiniLM in fp32, and in int8 as the second version, in production."""
    home, int8 = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("made") / "int8"
    done = training(home, "publish", "packaged:minilm", "--name", "embedding")
    assert done.returncode == 0, done.stderr
    assert "embedding, bert, at most 256 tokens, pooling mean, 384 dimensions" in done.stdout
    fp32 = ModelStore(home).resolve("embedding").path
    make_artifact(Int8(tolerance=0.05), fp32, int8, folder_context(fp32, print))
    done = training(home, "publish", str(int8), "--name", "embedding", "--kind", "embedding", "--promote")
    assert done.returncode == 0, done.stderr
    return home


def test_the_packaged_minilm_is_transformers_own_mean_pooling(home: Path) -> None:
    folder = packaged("packaged:minilm")
    network, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(TEXTS, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.inference_mode():
        hidden = network(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    reference = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1)).numpy()
    fp32, int8 = (engine_of(entry.path) for entry in ModelStore(home).entries("embedding"))
    assert (fp32.manifest.precision, int8.manifest.precision) == ("fp32", "int8")
    np.testing.assert_allclose(units(fp32, TEXTS), reference, atol=1e-5)
    close = (units(int8, TEXTS) * reference).sum(1)
    assert close.min() > 0.95, close
    for engine in (fp32, int8):
        alike, other = engine.score([Pair(TEXTS[0], TEXTS[1]), Pair(TEXTS[0], TEXTS[2])])
        assert isinstance(alike, PairResult)
        assert isinstance(other, PairResult)
        assert alike.score > 0.75 > 0.6 > other.score
        engine.close()


def test_what_is_published_says_what_it_is(home: Path) -> None:
    shown = json.loads(training(home, "models", "show", "production", "--kind", "embedding", "--json").stdout)
    assert (shown["kind"], shown["precision"], shown["stage"]) == ("embedding", "int8", "production")
    assert (shown["dimensions"], shown["max_tokens"], shown["threshold"]) == (384, 256, 0.5)
    assert [(step["name"], step["parity"]["metric"]) for step in shown["steps"]] == [
        ("export", "max |Δ cosine|"), ("int8", "mean |Δ cosine|"),
    ]  # fmt: skip
    assert shown["steps"][0]["settings"]["fused"]["Attention"] == 6
    assert all(step["latency_p50_ms"] for step in shown["steps"])


def test_evaluating_chooses_the_threshold_on_valid(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = tmp_path / "int8"
    shutil.copytree(ModelStore(home).resolve("embedding").path, artifact)
    before = read_manifest(artifact)
    monkeypatch.chdir(Path(__file__).parents[2])
    recipe = "training/recipes/demo-matching.yaml"
    command = [str(artifact), "--recipe", recipe, "--json", f"runs={tmp_path}"]
    samples = "training/samples/banking77-pairs"
    for split, rows in (("train", 50), ("valid", 120), ("test", 100)):
        lines = Path(samples, f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        # Half of each label, wherever the file has them.
        parts = {label: [line for line in lines if json.loads(line)["label"] == label][: rows // 2] for label in (0, 1)}
        (tmp_path / f"{split}.jsonl").write_text("\n".join(parts[0] + parts[1]) + "\n", encoding="utf-8")
        command.append(f"data.{split}={tmp_path / split}.jsonl")
    assert evaluate(command) == 0
    (told,) = json.loads(capsys.readouterr().out)
    after = read_manifest(artifact)
    assert after.digest == before.digest
    assert after.threshold is not None
    assert after.threshold > 0.6  # cosines of one bank's questions are far above 0
    assert told["metrics"]["threshold"] == pytest.approx(after.threshold, abs=1e-6)
    assert after.evaluations[-1].metrics == told["metrics"]
    assert told["metrics"]["roc_auc"] > 0.6
    # At 0.5 nearly everything is a match; the chosen threshold must beat that.
    assert told["metrics"]["f1"] > 2 / 3
    assert told["rows"] == 100
