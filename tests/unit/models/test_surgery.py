"""Layers and vocabulary rows taken out of models: outputs, configuration, reloading."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from models.layers import layer_stack, layers_of, layout_of, neurons_of
from models.narrow import ENCODERS
from models.pair_classifier import Frame, build
from models.registry import register_networks
from models.surgery import keep_heads, keep_layers, keep_neurons, trim_vocabulary, truncate_width

pytestmark = pytest.mark.unit
TOKENS, LAYERS, HEADS = 60, 4, 2
SHAPE = {
    "vocab_size": TOKENS,
    "hidden_size": 16,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}
NARROW = {"vocab_size": TOKENS, "dim": 16, "n_layers": LAYERS, "n_heads": 2, "hidden_dim": 32}
GPT2 = {"vocab_size": TOKENS, "n_embd": 16, "n_layer": LAYERS, "n_head": 2, "bos_token_id": 3, "eos_token_id": 3}
LLAMA = {**SHAPE, "num_key_value_heads": 1, "bos_token_id": 3, "eos_token_id": [3, 4]}
FAMILIES: dict[str, tuple[type[PreTrainedModel], Any]] = {
    "bert": (BertForSequenceClassification, BertConfig(**SHAPE)),
    "bert without a head": (BertModel, BertConfig(**SHAPE)),
    "bert with an output layer": (BertForMaskedLM, BertConfig(**SHAPE)),
    "roberta": (RobertaForSequenceClassification, RobertaConfig(**SHAPE)),
    "electra": (ElectraForSequenceClassification, ElectraConfig(**SHAPE, embedding_size=8)),
    "distilbert": (DistilBertForSequenceClassification, DistilBertConfig(**NARROW)),
    "gpt2": (GPT2LMHeadModel, GPT2Config(**GPT2)),
    "llama": (LlamaForCausalLM, LlamaConfig(**LLAMA, tie_word_embeddings=True)),
    "llama, output layer of its own": (LlamaForCausalLM, LlamaConfig(**LLAMA, tie_word_embeddings=False)),
}
WITH_HEADS = ("bert", "bert without a head", "roberta", "electra", "distilbert")
IDS = torch.tensor([[5, 6, 7, 20, 21]])
KEPT = [0, 1, 2, 3, 4, 5, 7, 6, 20, 21, 30]


def _model(family: str) -> PreTrainedModel:
    torch.manual_seed(1)
    kind, config = FAMILIES[family]
    return kind(config).eval()


def _output(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        output: torch.Tensor = model(ids)[0]
    return output


@pytest.fixture(params=list(FAMILIES))
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return _model(request.param)


def test_the_layers_that_are_kept_compute_what_they_did(model: PreTrainedModel, tmp_path: Path) -> None:
    kept = [2, 0]
    reference = copy.deepcopy(model)
    parent, _, name = layer_stack(reference)[0].rpartition(".")
    layers = reference.get_submodule(parent).get_submodule(name)
    setattr(reference.get_submodule(parent), name, torch.nn.ModuleList(layers[index] for index in kept))
    reference.config.num_hidden_layers = len(kept)
    reference.config.use_cache = False  # a cache would be indexed by the layers' old numbers
    cut = keep_layers(model, kept)
    assert (cut.config.num_hidden_layers, model.config.num_hidden_layers) == (len(kept), LAYERS)
    torch.testing.assert_close(_output(cut, IDS), _output(reference, IDS))
    cut.save_pretrained(tmp_path)
    assert torch.equal(_output(type(model).from_pretrained(tmp_path), IDS), _output(cut, IDS))


def test_a_model_and_what_was_cut_from_it_share_no_memory(model: PreTrainedModel) -> None:
    before = _output(model, IDS)
    with torch.no_grad():
        for parameter in keep_layers(model, [0]).parameters():
            parameter.zero_()
        for parameter in trim_vocabulary(model, KEPT).parameters():
            parameter.zero_()
    assert torch.equal(_output(model, IDS), before)


def test_kept_tokens_mean_what_they_meant(model: PreTrainedModel, tmp_path: Path) -> None:
    trimmed = trim_vocabulary(model, KEPT)
    expected = _output(model, IDS)
    if expected.shape[-1] == TOKENS:
        expected = expected[..., KEPT]
    ids = torch.tensor([[KEPT.index(token) for token in IDS[0].tolist()]])
    assert trimmed.config.vocab_size == trimmed.get_input_embeddings().weight.shape[0] == len(KEPT)
    torch.testing.assert_close(_output(trimmed, ids), expected)
    trimmed.save_pretrained(tmp_path)
    assert torch.equal(_output(type(model).from_pretrained(tmp_path), ids), _output(trimmed, ids))


def _silenced(model: PreTrainedModel, part: str, columns: list[list[int]]) -> PreTrainedModel:
    """A copy that does not hear `columns[layer]` of what the part `part` of the layout reads."""
    silenced = copy.deepcopy(model)
    path = getattr(layout_of(model), part)
    with torch.no_grad():
        for layer, each in zip(layers_of(silenced), columns, strict=True):
            module = layer.get_submodule(path)
            weight = module.weight if isinstance(module, torch.nn.Linear) else module.weight.T
            weight[:, each] = 0
    return silenced


def test_neurons_that_are_cut_are_as_if_silent(model: PreTrainedModel, tmp_path: Path) -> None:
    width = neurons_of(model)
    cut = [list(range(layer, width, 3))[:10] for layer in range(LAYERS)]
    kept = [[index for index in range(width) if index not in each] for each in cut]
    narrow = keep_neurons(model, kept)
    torch.testing.assert_close(_output(narrow, IDS), _output(_silenced(model, "lowered", cut), IDS))
    narrow.save_pretrained(tmp_path)
    assert torch.equal(_output(type(model).from_pretrained(tmp_path), IDS), _output(narrow, IDS))
    assert sum(p.numel() for p in narrow.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("family", WITH_HEADS)
def test_heads_that_are_cut_are_as_if_silent(family: str, tmp_path: Path) -> None:
    model = _model(family)
    kept = [[1], [0, 1], [0], [1]]
    size = model.config.hidden_size // HEADS
    cut = [[c for h in range(HEADS) if h not in each for c in range(h * size, (h + 1) * size)] for each in kept]
    narrow = keep_heads(model, kept)
    torch.testing.assert_close(_output(narrow, IDS), _output(_silenced(model, "attended", cut), IDS))
    auto = AutoModel if type(narrow) in ENCODERS else AutoModelForSequenceClassification
    narrow.save_pretrained(tmp_path)
    register_networks()
    reloaded = auto.from_pretrained(tmp_path)
    assert type(reloaded) is type(narrow)
    assert torch.equal(_output(reloaded, IDS), _output(narrow, IDS))
    # And cut again, in every way that there is.
    fewer = keep_layers(
        keep_heads(keep_neurons(trim_vocabulary(narrow, KEPT), [[0, 1]] * 4), [[0], [1], [0], [0]]), [1, 0]
    )
    assert fewer.config.layer_heads == [1, 1]
    kept_ids = torch.tensor([[KEPT.index(token) for token in IDS[0].tolist()]])
    assert _output(fewer, kept_ids).shape == _output(model, IDS).shape


def test_an_encoder_under_a_pair_head_is_cut_as_one_alone(tmp_path: Path) -> None:
    encoder = _model("bert without a head")
    frame = Frame(separator=7, special=(3, 7))
    model = build(encoder, head="bilstm", head_hidden=8, frame=frame, labels=("0", "1"), dropout=0.0).eval()
    mask = torch.ones_like(IDS)

    def logits(network: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            output: torch.Tensor = network(ids, mask).logits
        return output

    trimmed = trim_vocabulary(model, KEPT)
    assert trimmed.config.separator_token_id == KEPT.index(7)
    kept_ids = torch.tensor([[KEPT.index(token) for token in IDS[0].tolist()]])
    torch.testing.assert_close(logits(trimmed, kept_ids), logits(model, IDS))
    cut = keep_layers(keep_heads(keep_neurons(trimmed, [[0, 1]] * LAYERS), [[0], [1], [0, 1], [0]]), [2, 0])
    assert (cut.config.encoder.layer_heads, cut.config.encoder.intermediate_size) == ([2, 1], 2)
    cut.save_pretrained(tmp_path)
    register_networks()
    reloaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(logits(reloaded, kept_ids), logits(cut, kept_ids))


def test_a_family_whose_configuration_needs_all_heads_is_refused() -> None:
    with pytest.raises(ValueError, match=r"GPT2LMHeadModel cannot have fewer heads.*Bert, .*DistilBert can"):
        keep_heads(_model("gpt2"), [[0]] * LAYERS)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ([[0]] * 3, "heads: 3 lists for 4 layers"),
        ([[0], [0], [], [0]], r"heads \[\] of layer 2: give different ones of 0 … 1"),
        ([[0], [2], [0], [0]], r"heads \[2\] of layer 1"),
    ],
)
def test_heads_that_are_not_there_are_refused(kept: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        keep_heads(_model("bert"), kept)


def test_layers_of_different_width_are_refused() -> None:
    with pytest.raises(ValueError, match="each layer must keep as many"):
        keep_neurons(_model("bert"), [[0], [0], [0, 1], [0]])


def test_special_ids_follow_their_tokens() -> None:
    kept = [9, 4, 3, 0]
    trimmed = trim_vocabulary(_model("llama"), kept)
    assert (trimmed.config.bos_token_id, trimmed.config.eos_token_id) == (2, [2, 1])
    assert trimmed.generation_config.eos_token_id == [2, 1]


@pytest.mark.parametrize(
    ("family", "kept", "message"),
    [
        ("gpt2", [0, 1, 2], "kept_ids lacks 3, the model's bos_token_id"),
        ("bert", [0, 1, 1], "must all differ"),
        ("bert", [0, 60], "below 60"),
        ("roberta", [1, 0, 2], "counts positions from the padding token's id; keep it at 1"),
    ],
)
def test_a_vocabulary_that_cannot_be_kept_is_refused(family: str, kept: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trim_vocabulary(_model(family), kept)


@pytest.mark.parametrize("indices", [[], [0, 0], [4], [-1]])
def test_layers_that_are_not_there_are_refused(indices: list[int]) -> None:
    with pytest.raises(ValueError, match="give different ones of 0 … 3"):
        keep_layers(_model("bert"), indices)


def test_a_model_without_a_stack_of_layers_is_refused() -> None:
    albert = AlbertForSequenceClassification(AlbertConfig(**SHAPE, embedding_size=8))
    with pytest.raises(ValueError, match="has no stacks of 4 layers of their own"):
        keep_layers(albert, [0])


@pytest.mark.parametrize("family", ["bert", "bert with an output layer", "roberta", "electra"])
def test_narrower_models_keep_leading_weights_and_reload(family: str, tmp_path: Path) -> None:
    made, config = FAMILIES[family]
    model = made(copy.deepcopy(config)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    smaller = truncate_width(model, hidden_size=8, num_attention_heads=1, intermediate_size=12)
    assert type(smaller) is type(model)
    assert smaller.num_parameters() < model.num_parameters() / 2
    for name, value in smaller.state_dict().items():
        assert torch.equal(value, before[name][tuple(slice(size) for size in value.shape)]), name
    with torch.no_grad():
        expected = smaller(IDS)[0]
    smaller.save_pretrained(tmp_path)
    again = made.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(IDS)[0], expected)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} of the given model was changed"


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"hidden_size": 32}, "can only become narrower"),
        ({"hidden_size": 9}, "multiple of 2 heads"),
        ({"rank": 4}, "no such size"),
    ],
)
def test_a_width_that_cannot_be_is_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        truncate_width(BertModel(BertConfig(**SHAPE)), **sizes)
