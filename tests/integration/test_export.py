"""Parity before speed: transformers in fp32, ONNX in fp32, fp16 and int8 of every supported shape, on the real path."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
)

from runtime.backends.fake import byte_tokenizer
from runtime.backends.onnx import OnnxEncoder, OnnxGeneration
from runtime.backends.torch import TorchEmbedding, TorchGeneration, TorchMatching
from runtime.contract import Sampling
from runtime.errors import ArtifactRefused, DeviceRefused, InvalidInput
from runtime.load import load_engine
from runtime.manifest import read_manifest
from tests.unit.runtime.backend_contract import EncoderBackendContract, GenerationBackendContract
from training.checkpoint import adopt_folder
from training.compression.artifact import ParityError, make_artifact
from training.compression.export import Export
from training.compression.fp16 import Fp16
from training.compression.int4 import Int4
from training.compression.int8 import Int8
from training.compression.pipeline import folder_context
from training.compression.step import GRAPH

pytestmark = pytest.mark.integration
VOCABULARY = 258
ENCODER: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 66, "num_labels": 2,
}  # fmt: skip


def _llama(**changed: Any) -> LlamaForCausalLM:
    settings = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 6}
    settings |= {"num_key_value_heads": 2, "max_position_embeddings": 64, "vocab_size": VOCABULARY}
    return LlamaForCausalLM(LlamaConfig(**(settings | {"eos_token_id": 256, "bos_token_id": 256} | changed)))


MODELS: dict[str, Any] = {
    "bert": lambda: BertForSequenceClassification(BertConfig(**ENCODER)),
    "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**ENCODER, type_vocab_size=1, pad_token_id=1)),
    "bi-bert": lambda: BertModel(BertConfig(**ENCODER)),
    "bi-roberta": lambda: RobertaModel(RobertaConfig(**ENCODER, type_vocab_size=1, pad_token_id=1)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(n_layer=2, n_embd=48, n_head=4, vocab_size=VOCABULARY, n_positions=64, eos_token_id=256)
    ),
    # head size 8, grouped keys and values, untied head: the paddings and shapes that a plain GPT-2 does not have
    "llama": lambda: _llama(tie_word_embeddings=False),
    # several blocks of quantised weights a column: kernels for one row and for two add them up in different order
    "llama-large": lambda: _llama(hidden_size=384, intermediate_size=640, num_attention_heads=6),
    "llama-wide": lambda: _llama(num_attention_heads=2, num_key_value_heads=1, head_dim=32, rope_theta=5e4),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One tiny random model of each shape, as transformers saves it."""
    made = {}
    for name, build in MODELS.items():
        torch.manual_seed(len(name))
        folder = tmp_path_factory.mktemp("hub") / name
        model = build()
        if name.startswith(("bert", "roberta")):
            # A fresh head hardly tells pairs apart; this one does, so that a wrong graph cannot look right.
            torch.nn.init.normal_(model.get_parameter([n for n, _ in model.named_parameters()][-2]), std=1.0)
        model.save_pretrained(folder)
        pairs = "bert" in name
        PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(pairs=pairs), eos_token="<end>").save_pretrained(folder)
        made[name] = folder
    return made


@pytest.fixture(scope="module")
def artifacts(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each model as checkpoint, fp32 and int8 artifact, encoders in fp16 too, made by the steps that a user runs."""
    made = {}
    for name, folder in folders.items():
        root = tmp_path_factory.mktemp(name)
        if name.startswith("bi-"):
            adopt_folder(folder, root / "torch", kind="embedding")
        else:
            adopt_folder(folder, root / "torch")
        context = folder_context(root / "torch", print)
        make_artifact(Export(tolerance=1e-4), root / "torch", root / "fp32", context)
        make_artifact(Int8(tolerance=0.05), root / "fp32", root / "int8", context)
        if name in ("gpt2", "llama-large"):
            make_artifact(Int4(tolerance=0.2), root / "fp32", root / "int4", context)
        if "bert" in name:
            make_artifact(Fp16(), root / "fp32", root / "fp16", context)
        made[name] = root
    return made


class _Encoder(EncoderBackendContract):
    vocab_size = 256
    graph: str
    model: str

    @pytest.fixture
    def backend(self, artifacts: dict[str, Path]) -> OnnxEncoder | TorchMatching | TorchEmbedding:
        root = artifacts[self.model] / self.graph
        if self.graph != "torch":
            return OnnxEncoder(root / GRAPH)
        return TorchEmbedding(root) if self.model.startswith("bi-") else TorchMatching(root)


class TestBertTorch(_Encoder):
    model, graph, tolerance = "bert", "torch", 1e-5


class TestBertFp32(_Encoder):
    model, graph, tolerance = "bert", "fp32", 1e-5


class TestBertFp16(_Encoder):
    # Outputs are about 1 in size: one rounding to 11 bits that falls the other way is 1e-3.
    model, graph, tolerance = "bert", "fp16", 2e-3


class TestBertInt8(_Encoder):
    # One activation scale for the whole batch: neighbours shift it, within the rounding of int8.
    model, graph, tolerance = "bert", "int8", 0.2


@pytest.mark.parametrize(("model", "head"), [("bert", 2), ("roberta", 2), ("bi-bert", 0)])
def test_every_matrix_product_of_an_int8_encoder_is_one_of_integers(
    artifacts: dict[str, Path], model: str, head: int
) -> None:
    operators = Counter(node.op_type for node in onnx.load(artifacts[model] / "int8" / GRAPH).graph.node)
    assert not {"MatMul", "Gemm", "Attention", "QAttention"} & set(operators)
    # Projections, output, two of the feed-forward part a layer; then those of the head.
    assert operators["MatMulInteger"] == 4 * operators["MultiHeadAttention"] + head


class TestBiEncoderTorch(_Encoder):
    model, graph, tolerance = "bi-bert", "torch", 1e-5


class TestBiEncoderFp32(_Encoder):
    model, graph, tolerance = "bi-bert", "fp32", 1e-5


class TestBiEncoderFp16(_Encoder):
    model, graph, tolerance = "bi-bert", "fp16", 2e-3


class TestBiEncoderInt8(_Encoder):
    # As above; components of the vectors are about 1 in size.
    model, graph, tolerance = "bi-bert", "int8", 0.2


class _PaddedWithOne(_Encoder):
    """RoBERTa's positions depend on the padding token's id."""

    def run(self, backend: Any, rows: list[np.ndarray], width: int | None = None) -> np.ndarray:
        longest = width or max(map(len, rows))
        ids, mask = np.ones((len(rows), longest), np.int64), np.zeros((len(rows), longest), np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)], mask[number, : len(row)] = row, 1
        return np.asarray(backend.forward(ids, mask, np.zeros_like(ids)))


class TestRobertaFp32(_PaddedWithOne):
    model, graph, tolerance = "roberta", "fp32", 1e-5


class TestRobertaFp16(_PaddedWithOne):
    model, graph, tolerance = "roberta", "fp16", 2e-3


class TestRobertaBiEncoderFp32(_PaddedWithOne):
    model, graph, tolerance = "bi-roberta", "fp32", 1e-5


class _Generation(GenerationBackendContract):
    vocab_size = VOCABULARY
    graph: str
    model: str

    @pytest.fixture
    def backend(self, artifacts: dict[str, Path]) -> OnnxGeneration | TorchGeneration:
        root = artifacts[self.model] / self.graph
        shape = read_manifest(root).causal
        assert shape is not None
        if self.graph == "torch":
            return TorchGeneration(root, slots=3, context=64)
        return OnnxGeneration(root / GRAPH, shape, slots=3, context=64, threads=2)


class TestGpt2Torch(_Generation):
    model, graph, tolerance = "gpt2", "torch", 1e-5


class TestGpt2Fp32(_Generation):
    model, graph, tolerance = "gpt2", "fp32", 1e-5


class TestGpt2Int8(_Generation):
    model, graph, tolerance = "gpt2", "int8", 1e-5


class TestLlamaFp32(_Generation):
    model, graph, tolerance = "llama", "fp32", 1e-5


class TestLlamaInt8(_Generation):
    model, graph, tolerance = "llama", "int8", 1e-5


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("model", ["gpt2", "llama-large"])
def test_a_sequence_is_the_same_bit_by_bit_in_any_company_and_however_its_prompt_is_cut(
    model: str, precision: str, artifacts: dict[str, Path]
) -> None:
    root = artifacts[model] / precision
    shape = read_manifest(root).causal
    assert shape is not None
    backend = OnnxGeneration(root / GRAPH, shape, slots=5, context=64, threads=2)
    random = np.random.default_rng(2)
    prompts = [random.integers(3, VOCABULARY, length).tolist() for length in (21, 8, 33, 5)]
    whole = [backend.prefill(slot, prompt, all_logits=True) for slot, prompt in enumerate(prompts)]
    for size in (1, 2, 3, 7, 16, 20):
        for start in range(0, 21, size):
            chunk = prompts[0][start : start + size]
            assert np.array_equal(backend.prefill(4, chunk, start, all_logits=True), whole[0][start : start + size])
    assert np.array_equal(backend.prefill(4, prompts[0]), whole[0][-1:])

    tokens, lengths = np.asarray([4, 5, 6, 7]), np.asarray([21, 8, 33, 5])
    together = [backend.decode(tokens[:count], lengths[:count]) for count in (1, 2, 3, 4)]
    for rows in together:
        assert np.array_equal(rows, together[-1][: len(rows)])
    for slot in range(4):
        backend.move(slot, 0, 33)
        assert np.array_equal(backend.decode(tokens[slot : slot + 1], lengths[slot : slot + 1])[0], together[-1][slot])


def test_a_prompt_may_fill_the_context(artifacts: dict[str, Path]) -> None:
    root = artifacts["gpt2"] / "int8"
    shape = read_manifest(root).causal
    assert shape is not None
    backend = OnnxGeneration(root / GRAPH, shape, slots=1, context=63, threads=2)
    prompt = np.random.default_rng(2).integers(3, VOCABULARY, 63).tolist()
    whole = backend.prefill(0, prompt, all_logits=True)
    assert whole.shape == (63, VOCABULARY)
    assert np.abs(backend.prefill(0, prompt[-1:], start=62) - whole[-1:]).max() < 1e-5


@pytest.mark.parametrize("name", ["gpt2", "llama", "llama-wide"])
def test_greedy_tokens_equal_those_of_transformers(name: str, artifacts: dict[str, Path]) -> None:
    reference, served = load_engine(artifacts[name] / "torch"), load_engine(artifacts[name] / "fp32")
    for prompt in ("a", "hello there", "x" * 30):
        streams = [
            [event.text for event in engine.generate(prompt, Sampling(max_tokens=24, temperature=0))]  # type: ignore[union-attr]
            for engine in (reference, served)
        ]
        assert streams[0] == streams[1]
    reference.close()
    served.close()


def test_every_step_is_recorded_with_parity_size_and_latency(artifacts: dict[str, Path]) -> None:
    for root in artifacts.values():
        manifest = read_manifest(root / "int8")
        assert [step.name for step in manifest.steps] == ["export", "int8"]
        assert all(step.parity and step.parity.ok and step.latency_p50_ms for step in manifest.steps)
        assert manifest.parent == read_manifest(root / "fp32").digest
        assert manifest.precision == "int8"
        assert manifest.size_bytes < read_manifest(root / "fp32").size_bytes


@pytest.mark.parametrize("model", ["bert", "roberta", "bi-bert", "bi-roberta"])
def test_an_fp16_encoder_has_half_the_weights_and_the_same_operators(artifacts: dict[str, Path], model: str) -> None:
    graphs = {precision: onnx.load(artifacts[model] / precision / GRAPH).graph for precision in ("fp32", "fp16")}
    operators = {name: Counter(node.op_type for node in graph.node) for name, graph in graphs.items()}
    for of_casts in operators.values():
        del of_casts["Cast"]  # of the output, back to fp32
    assert operators["fp16"] == operators["fp32"]
    weights = {each.data_type for each in graphs["fp16"].initializer}
    assert onnx.TensorProto.FLOAT16 in weights
    assert onnx.TensorProto.FLOAT not in weights
    assert graphs["fp16"].output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    manifest = read_manifest(artifacts[model] / "fp16")
    assert (manifest.precision, manifest.steps[-1].name) == ("fp16", "fp16")
    assert manifest.steps[-1].parity
    assert manifest.steps[-1].parity.ok
    assert manifest.parent == read_manifest(artifacts[model] / "fp32").digest


@pytest.mark.parametrize("model", ["bert", "roberta", "bi-bert"])
def test_an_fp16_encoder_computes_what_its_parent_does(artifacts: dict[str, Path], model: str) -> None:
    random = np.random.default_rng(3)
    ids = random.integers(5, 250, (6, 24))
    mask, types = np.ones_like(ids), np.zeros_like(ids)
    mask[2, 9:] = 0
    ids[2, 9:] = 1 if model == "roberta" else 0
    fp32, fp16 = (OnnxEncoder(artifacts[model] / each / GRAPH).forward(ids, mask, types) for each in ("fp32", "fp16"))
    assert fp16.dtype == np.float32
    assert 0 < np.abs(fp32 - fp16).max() < 0.02
    assert np.ptp(fp32[:, 0]) > 0.1  # rows that hardly differ would hide a wrong graph


def test_fp16_is_for_encoders(artifacts: dict[str, Path], tmp_path: Path) -> None:
    source = artifacts["gpt2"] / "fp32"
    context = folder_context(source, print)
    with pytest.raises(InvalidInput, match="of kind generation; the step fp16 is for matching and embedding"):
        make_artifact(Fp16(), source, tmp_path / "fp16", context)


def test_a_gpu_that_is_not_there_is_refused_by_name(artifacts: dict[str, Path]) -> None:
    with pytest.raises(DeviceRefused, match=r"cuda:1 was asked for, .* no CUDAExecutionProvider.*onnxruntime-gpu"):
        load_engine(artifacts["bert"] / "fp16", device="cuda:1")


@pytest.mark.parametrize(
    ("model", "precision", "reason"),
    [("bert", "int8", "--precision fp16"), ("gpt2", "fp32", "CPU only"), ("bert", "torch", "format torch")],
)
def test_what_no_gpu_engine_serves_is_refused(
    artifacts: dict[str, Path], model: str, precision: str, reason: str
) -> None:
    with pytest.raises(DeviceRefused, match=reason):
        load_engine(artifacts[model] / precision, device="cuda:0")


def test_a_step_that_changes_too_much_is_refused_and_leaves_nothing(artifacts: dict[str, Path], tmp_path: Path) -> None:
    source = artifacts["bert"] / "fp32"
    with pytest.raises(ParityError, match=r"int8: mean .* the recipe allows 1e-09"):
        make_artifact(Int8(tolerance=1e-9), source, tmp_path / "int8", folder_context(source, print))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (lambda f: (f / "config.json").write_text("{}"), "cannot be used"),
        (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda f: (f / "modules.json").write_text("[]"), "has the modules none; they must be Transformer, Pooling"),
    ],
)
def test_a_folder_that_cannot_be_published_is_named(
    folders: dict[str, Path], tmp_path: Path, change: Any, message: str
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(folders["bert"], folder)
    change(folder)
    with pytest.raises(InvalidInput, match=message):
        adopt_folder(folder, tmp_path / "artifact")


def test_a_graph_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(ArtifactRefused, match="cannot be loaded by ONNX Runtime"):
        OnnxEncoder(tmp_path / "model.onnx")
