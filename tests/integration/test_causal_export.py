"""Causal models of every shape that the graph writer knows: transformers' log-probabilities, or a refusal that says
what is supported. And a real one, trained by somebody else, to its published text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from runtime.backends.fake import byte_tokenizer
from runtime.contract import Sampling, Token
from runtime.generation import GenerationEngine
from runtime.load import load_engine
from runtime.manifest import read_manifest
from training import causal_graph
from training.compression.command import compress_folder, main
from training.compression.settings import Compress
from training.compression.step import GRAPH
from training.evaluate import evaluate_generation

pytestmark = pytest.mark.integration
STORIES = Path(__file__).parents[2] / "training/samples/stories260k"
TEXT = Path(__file__).parents[2] / "training/samples/shakespeare/train.txt"


LLAMA = {
    "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 6, "vocab_size": 258,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2,
    "eos_token_id": 256, "bos_token_id": 256,
}  # fmt: skip


def llama(**changed: Any) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**(LLAMA | changed)))


def gpt2(**changed: Any) -> PreTrainedModel:
    settings = {"n_layer": 2, "n_embd": 48, "n_head": 4, "vocab_size": 258, "n_positions": 64, "eos_token_id": 256}
    return GPT2LMHeadModel(GPT2Config(**(settings | {"initializer_range": 0.2} | changed)))


def save(model: PreTrainedModel, folder: Path) -> Path:
    # Biases begin at zero; a graph without them would look right.
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(pairs=False), eos_token="<end>").save_pretrained(folder)
    return folder


def compress(folder: Path, run: Path, *precisions: Any, **tolerances: float) -> dict[str, Path]:
    return compress_folder(folder, run, Compress(precisions=precisions, **tolerances), log=lambda line: None)


def rope(kind: str, **settings: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **settings}}


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
SHAPES: dict[str, Any] = {
    "gpt2, untied head": lambda: gpt2(tie_word_embeddings=False),
    "gpt2, gelu": lambda: gpt2(activation_function="gelu"),
    "gpt2, relu": lambda: gpt2(activation_function="relu"),
    "llama, tied head": lambda: llama(tie_word_embeddings=True),
    "llama, biases": lambda: llama(attention_bias=True, mlp_bias=True),
    "llama, rope llama3": lambda: llama(**rope("llama3", **LLAMA3)),
    "llama, rope linear": lambda: llama(**rope("linear", factor=2.0)),
    "llama, rope yarn": lambda: llama(**rope("yarn", factor=4.0, original_max_position_embeddings=16)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**LLAMA, sliding_window=64)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**LLAMA)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_folder_becomes_a_graph_with_the_same_log_probabilities(shape: str, tmp_path: Path) -> None:
    torch.manual_seed(4)
    model = SHAPES[shape]().eval()
    made = compress(save(model, tmp_path / "folder"), tmp_path / "run", "int8", fp32_tolerance=1e-4, int8_tolerance=0.5)
    ids = np.random.default_rng(1).integers(3, 250, 48).tolist()
    with torch.inference_mode():
        expected = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
    expected = expected[torch.arange(47), torch.tensor(ids[1:])].numpy()
    assert expected.std() > 0.5  # a model that says nothing would agree with anything
    for precision, tolerance in (("fp32", 1e-4), ("int8", 0.5)):
        engine = load_engine(made[precision])
        assert isinstance(engine, GenerationEngine)
        assert np.abs(np.asarray(engine.log_probs(ids)) - expected).max() < tolerance
        engine.close()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: llama(**rope("dynamic", factor=2.0)), r"rope type 'dynamic' .* default, linear, llama3, yarn are"),
        (lambda: llama(hidden_act="gelu"), r"activation 'gelu' is not supported by the graph writer; 'silu' is"),
        (lambda: gpt2(activation_function="silu"), r"activation 'silu' is not supported .* gelu_new, .*gelu, relu are"),
        (
            lambda: MistralForCausalLM(MistralConfig(**LLAMA, sliding_window=32)),
            r"sliding window of 32 tokens in a context of 64 is not supported .* at most 32",
        ),
        (lambda: gpt2(scale_attn_by_inverse_layer_idx=True), r"layer-scaled .* attention is not supported"),
    ],
)
def test_what_no_graph_can_be_written_for_is_named(build: Any, message: str, tmp_path: Path) -> None:
    folder = save(build(), tmp_path / "folder")
    with pytest.raises(ValueError, match=message):
        compress(folder, tmp_path / "run", "fp32")
    assert not (tmp_path / "run/fp32").exists()


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = save(llama(), tmp_path / "folder")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights of its llama model: model.layers.1.mlp.up_proj.weight"):
        compress(folder, tmp_path / "run", "fp32")


def test_weights_too_large_for_one_file_lie_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(gpt2(), tmp_path / "folder")
    small = compress(folder, tmp_path / "small", "int8", int8_tolerance=0.5)
    monkeypatch.setattr(causal_graph, "LARGEST_FILE_BYTES", 20_000)
    large = compress(folder, tmp_path / "large", "int8", int8_tolerance=0.5)
    ids = np.random.default_rng(1).integers(3, 250, 48).tolist()
    for precision in ("fp32", "int8"):
        assert {f"{GRAPH}.data", GRAPH} <= read_manifest(large[precision]).files.keys()
        engines = [load_engine(each[precision]) for each in (small, large)]
        one, other = (engine.log_probs(ids) for engine in engines)  # type: ignore[union-attr]
        assert one == other
        for engine in engines:
            engine.close()
    assert sorted(path.name for path in large["int8"].iterdir()) == [
        "manifest.json",
        GRAPH,
        f"{GRAPH}.data",
        "tokenizer.json",
    ]


# ---------------------------------------------------------------- a model that somebody else has trained


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model through the command that a user types."""
    run = tmp_path_factory.mktemp("runs") / "stories"
    assert main([str(STORIES), "--run", str(run)]) == 0
    return run


def greedy(artifact: Path) -> str:
    engine = load_engine(artifact)
    try:
        events = list(engine.generate("", Sampling(max_tokens=200, temperature=0, ignore_eos=True)))  # type: ignore[union-attr]
    finally:
        engine.close()
    tokens = [event for event in events if isinstance(event, Token)]
    assert len(tokens) == 200
    return "".join(event.text for event in events).strip()  # type: ignore[union-attr]


def test_the_published_text_comes_out_token_for_token(stories: Path) -> None:
    assert greedy(stories / "fp32") == (STORIES / "greedy_200.txt").read_text(encoding="utf-8").strip()


def test_int8_costs_less_than_one_per_cent_of_perplexity(stories: Path) -> None:
    # What another of its kind has written, not what it wrote itself: it has not seen this, nor have its weights.
    story = (STORIES / "greedy_200.txt").read_text(encoding="utf-8").replace("Lily", "Ben").replace("She", "He")
    perplexity = {}
    for precision in ("fp32", "int8"):
        engine = load_engine(stories / precision)
        assert isinstance(engine, GenerationEngine)
        perplexity[precision] = evaluate_generation(engine, story)["perplexity"]
        engine.close()
    assert 1 < perplexity["fp32"] < 6
    assert abs(perplexity["int8"] / perplexity["fp32"] - 1) < 0.01


def test_the_manifests_tell_the_way(stories: Path) -> None:
    manifest = read_manifest(stories / "int8")
    assert (manifest.kind, manifest.architecture, manifest.precision) == ("generation", "llama", "int8")
    assert [step.name for step in manifest.steps] == ["export", "int8"]
    assert manifest.steps[-1].settings["block"] == 128


def test_a_run_that_is_there_is_not_overwritten(stories: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_manifest(stories / "checkpoint").digest
    assert main([str(STORIES), "--run", str(stories)]) == 1
    assert f"{stories / 'checkpoint'} is there already; choose another place with --run" in capsys.readouterr().err
    assert read_manifest(stories / "checkpoint").digest == before


def test_a_folder_has_no_overrides_and_a_recipe_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(STORIES), "name=mine", "--run", str(tmp_path / "run")]) == 1
    assert "name=mine) need a recipe" in capsys.readouterr().err
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"name": "x"}))
    assert main([str(recipe), "--run", str(tmp_path / "run")]) == 1
    assert "--run is for a folder" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    assert main([str(tmp_path)]) == 1
    assert "has no config.json" in capsys.readouterr().err
