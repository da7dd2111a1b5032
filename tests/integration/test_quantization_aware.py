"""Quantisation-aware training: the network computes as its int8 graph does, and learns to lose less by it."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

from records.document import read_document
from runtime.backends.fake import VOCABULARY, byte_tokenizer
from runtime.contract import Pair
from runtime.embedding import EmbeddingEngine
from runtime.encoder import EncoderEngine
from runtime.errors import InvalidInput
from runtime.load import load_engine
from runtime.manifest import Kind
from tests.unit.training.tiny import WORDS, pair_rows, write_jsonl
from training.checkpoint import adopt_folder
from training.compression.artifact import make_artifact
from training.compression.export import Export
from training.compression.fake_quantization import quantize_as_int8
from training.compression.int8 import Int8
from training.compression.network import load_network
from training.compression.pipeline import folder_context, recipe_context
from training.compression.qat import Qat
from training.compression.step import GRAPH, Context, Step
from training.evaluate import as_pairs, score_pairs
from training.recipe import Recipe

pytestmark = pytest.mark.integration
OUTLIER = 100.0
INT8 = Int8(tolerance=1, equalize=False)  # the form that the training knows


def context_of(kind: Kind, folder: Path) -> Context:
    """A run whose checkpoint is random, with weights of which a few are so large that int8 tells few others apart."""
    torch.manual_seed(3)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=VOCABULARY, max_position_embeddings=64, **shape)
    config.id2label = {0: "0", 1: "1"}
    model = BertForSequenceClassification(config) if kind == "matching" else BertModel(config)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.2)
    _with_outliers(model.base_model)
    model.save_pretrained(folder / "hub")
    PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(pairs=True)).save_pretrained(folder / "hub")
    adopt_folder(folder / "hub", folder / "runs/tiny/checkpoint", kind=kind, max_tokens=48)
    counts = {"train": 160, "valid": 40, "test": 40}
    files = {
        split: write_jsonl(folder / f"{split}.jsonl", pair_rows(count, seed))
        for seed, (split, count) in enumerate(counts.items())
    }
    chance = random.Random(5)
    groups = [{"text": f"{word} {chance.randrange(10**6)}", "group": word} for word in WORDS for _ in range(16)]
    data = ", ".join(f"{split}: {file}" for split, file in files.items())
    if kind == "embedding":
        data += f", groups: {write_jsonl(folder / 'groups.jsonl', groups)}"
    path = folder / "recipe.yaml"
    path.write_text(
        f"name: tiny\nruns: {folder / 'runs'}\nmodel: {{kind: {kind}, max_tokens: 48}}\ndata: {{{data}}}\n"
        "train: {batch_size: 16, validate_every: 20}\n"
    )
    return recipe_context(read_document(path, Recipe, []), lambda line: None)


def _with_outliers(network: Any) -> None:
    """Scale one value of each layer's attention down, and the weights that read it up: the same in fp32, while a scale
    an output then leaves the other weights a level or two of int8."""
    with torch.no_grad():
        for layer in network.encoder.layer:
            value, output = layer.attention.self.value, layer.attention.output.dense
            value.weight[0] /= OUTLIER
            value.bias[0] /= OUTLIER
            output.weight[:, 0] *= OUTLIER


@dataclass(frozen=True)
class Source:
    """A checkpoint, and its int8 form without this training."""

    kind: Kind
    context: Context
    int8: Path


@pytest.fixture(scope="module", params=("matching", "embedding"))
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp(request.param)
    context = context_of(request.param, folder)
    return Source(request.param, context, made(context, folder / "plain", Export(), INT8))


def made(context: Context, folder: Path, *steps: Step) -> Path:
    """The artifact of the last step."""
    artifact = context.checkpoint
    for place, step in enumerate(steps):
        work = folder / f"work-{place}"
        work.mkdir(parents=True)
        make_artifact(step, artifact, folder / str(place), replace(context, work=work), judged=False)
        artifact = folder / str(place)
    return artifact


def answers(artifact: Path, pairs: list[Pair]) -> np.ndarray:
    """Scores of the pairs (N,), or vectors (N, D) of their first texts, of length 1."""
    engine = load_engine(artifact)
    assert isinstance(engine, EncoderEngine)
    try:
        if not isinstance(engine, EmbeddingEngine):
            return np.asarray(score_pairs(engine, pairs))
        vectors = np.stack([each.vector for each in engine.embed([pair.text_a for pair in pairs])])  # type: ignore[union-attr]
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    finally:
        engine.close()


def test_the_network_computes_as_its_int8_graph_does(source: Source) -> None:
    ids = torch.randint(0, 256, (16, 24), generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    session = onnxruntime.InferenceSession(source.int8 / GRAPH)
    given = {each.name for each in session.get_inputs()}
    [int8] = session.run(None, {name: value.numpy() for name, value in inputs.items() if name in given})
    network = load_network(source.context.checkpoint).eval()

    def outputs() -> np.ndarray:
        with torch.no_grad():
            found = network(**inputs)
        return np.asarray(found.logits if source.kind == "matching" else found.last_hidden_state.mean(1))

    exact, names = outputs(), set(network.state_dict())
    # Of two layers six products each, three embeddings, pooler; and a classifier.
    assert quantize_as_int8(network) == (17 if source.kind == "matching" else 16)
    assert set(network.state_dict()) == names
    assert np.abs(outputs() - int8).mean() < 0.1 * np.abs(exact - int8).mean()


def test_the_int8_form_is_nearer_to_the_source_after_it(source: Source, tmp_path: Path) -> None:
    context = source.context
    settings = Qat(steps=50, learning_rate=2e-4, labels=0, outputs=1)
    aware = made(context, tmp_path, settings, Export(), INT8)
    pairs, _ = as_pairs(context.splits.valid, "1")  # type: ignore[union-attr]
    right = answers(context.checkpoint, pairs)
    without, distance = (np.abs(answers(each, pairs) - right).mean() for each in (source.int8, aware))
    print(without, distance)
    assert distance < 0.75 * without


def test_it_needs_data_and_something_to_learn(tmp_path: Path) -> None:
    folder = folder_context(context_of("matching", tmp_path).checkpoint, lambda line: None)
    with pytest.raises(InvalidInput, match="qat needs labelled data"):
        Qat(steps=1).apply(folder.checkpoint, tmp_path, folder)
    with pytest.raises(ValueError, match="give labels or outputs a weight"):
        Qat(steps=1, labels=0)
