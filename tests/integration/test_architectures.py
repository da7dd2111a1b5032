"""Every network for pairs from the recipe to the engine, also one that only this test knows."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from models.registry import ARCHITECTURES, register_networks
from records.document import check_document
from runtime.backends.onnx import OnnxEncoder
from runtime.backends.torch import TorchMatching
from runtime.contract import Pair, PairResult
from runtime.load import load_engine
from runtime.manifest import read_manifest
from tests.unit.runtime.backend_contract import EncoderBackendContract
from tests.unit.training.tiny import WORDS, encoder_folder, write_jsonl
from training.compression.command import main as compress
from training.compression.step import GRAPH
from training.data.splits import PairSplits, load_splits
from training.features import cache_hidden_states
from training.loop import train_loop
from training.matching_task import prepare_matching
from training.progress import ProgressReport, TrainLog
from training.recipe import PairData, Recipe
from training.train import train

pytestmark = pytest.mark.integration
NEW = {"vocab_size": 320, "embedding": 16, "hidden": 16}
MODELS: dict[str, dict[str, Any]] = {
    "bilstm": {"head": "interaction", "encoder": {"architecture": "bilstm", **NEW}},
    "textcnn": {"head": "cnn", "encoder": {"architecture": "textcnn", "layers": 2, **NEW}},
    "frozen": {"head": "bilstm", "frozen": True},
}
CHINESE = [("我的卡什么时候到？", "我的卡寄出了吗？", 1), ("我的卡什么时候到？", "怎么更改密码？", 0)]


def easy_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """A match says yes, the others say no: even a network from nothing learns it in some steps."""
    chance = random.Random(seed)
    return [
        {
            "text_a": chance.choice(WORDS),
            "text_b": f"{chance.choice(WORDS)} {('no', 'yes')[place % 2]}",
            "label": place % 2,
        }
        for place in range(count)
    ]


def recipe_of(place: Path, name: str, model: dict[str, Any], steps: int = 60) -> Recipe:
    source = {} if "encoder" in model else {"base": str(place / "base")}
    section = {"kind": "matching", "architecture": "pair-classifier", "max_tokens": 48, "head_hidden": 16}
    data = {split: str(place / f"{split}.jsonl") for split in ("train", "valid", "test")}
    train = {"learning_rate": 5e-3, "steps": steps, "validate_every": 30, "batch_size": 8}
    document = {"name": name, "runs": str(place / "runs"), "model": {**section, **source, **model}, "data": data}
    return check_document(document | {"train": train}, Recipe, "test")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base, and pairs of which some are Chinese."""
    folder = tmp_path_factory.mktemp("architectures")
    encoder_folder(folder / "base")
    chinese = [{"text_a": a, "text_b": b, "label": label} for a, b, label in CHINESE]
    for seed, (split, rows) in enumerate({"train": 160, "valid": 40, "test": 40}.items()):
        write_jsonl(folder / f"{split}.jsonl", [*easy_rows(rows, seed), *chinese])
    return folder


@pytest.fixture(scope="module")
def runs(place: Path) -> dict[str, Path]:
    """Each model trained, and compressed to fp32 and int8 by the command."""
    made = {}
    for name, model in MODELS.items():
        recipe = recipe_of(place, name, model)
        train(recipe)
        document = place / f"{name}.json"
        document.write_text(recipe.model_dump_json())
        assert compress([str(document)]) == 0
        made[name] = recipe.run
    return made


@pytest.mark.parametrize("name", MODELS)
def test_each_is_trained_exported_and_scores_pairs(runs: dict[str, Path], name: str) -> None:
    described = {"bilstm": "bilstm+interaction", "textcnn": "textcnn+cnn", "frozen": "bert+bilstm"}
    scores = {}
    for precision in ("checkpoint", "fp32", "int8"):
        engine = load_engine(runs[name] / precision)
        assert (engine.manifest.kind, engine.manifest.architecture) == ("matching", described[name])
        pairs = [Pair("card", "bank yes"), Pair("card", "bank no"), Pair(CHINESE[0][0], CHINESE[0][1])]
        results = [result for result in engine.score(pairs) if isinstance(result, PairResult)]  # type: ignore[union-attr]
        scores[precision] = np.asarray([result.score for result in results])
        engine.close()
    assert scores["checkpoint"][0] > scores["checkpoint"][1] + 0.05
    np.testing.assert_allclose(scores["fp32"], scores["checkpoint"], atol=1e-4)
    np.testing.assert_allclose(scores["int8"], scores["checkpoint"], atol=0.1)


def test_int8_reaches_every_matrix_and_the_lstm(runs: dict[str, Path]) -> None:
    for name, lstms in {"bilstm": 1, "textcnn": 0, "frozen": 1}.items():
        operators = Counter(node.op_type for node in onnx.load(runs[name] / "int8" / GRAPH).graph.node)
        assert not {"MatMul", "Gemm", "LSTM", "Attention"} & set(operators), name
        assert operators["DynamicQuantizeLSTM"] == lstms
        # The transformer part is fused as without a head of ours.
        fused = Counter(node.op_type for node in onnx.load(runs[name] / "fp32" / GRAPH).graph.node)
        assert fused["Attention"] == (2 if name == "frozen" else 0)


class _Pairs(EncoderBackendContract):
    vocab_size = 250
    name: str
    graph = "fp32"

    @pytest.fixture
    def backend(self, runs: dict[str, Path]) -> OnnxEncoder | TorchMatching:
        root = runs[self.name] / self.graph
        return TorchMatching(root) if self.graph == "checkpoint" else OnnxEncoder(root / GRAPH)

    def rows(self) -> list[np.ndarray]:
        """With a separator in the middle; tokens of a byte tokenizer or of the model's own."""
        separator = 2 if self.name in ("bilstm", "textcnn") else 257
        rows = super().rows()
        for row in rows:
            row[len(row) // 2] = separator
        return rows


class TestBilstmTorch(_Pairs):
    name, graph, tolerance = "bilstm", "checkpoint", 1e-5


class TestBilstmFp32(_Pairs):
    name, tolerance = "bilstm", 1e-5


class TestTextcnnFp32(_Pairs):
    name, tolerance = "textcnn", 1e-5


class TestBilstmHeadFp32(_Pairs):
    name, tolerance = "frozen", 1e-5


class TestBilstmInt8(_Pairs):
    # One activation scale for the whole batch: neighbours shift it, within the rounding of int8.
    name, graph, tolerance = "bilstm", "int8", 0.3


def test_a_head_alone_learns_the_same_with_and_without_the_cache_and_the_encoder_runs_once_a_row(
    place: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(place, "head-only", MODELS["frozen"])
    splits = load_splits(recipe)
    assert isinstance(splits, PairSplits)
    assert isinstance(recipe.data, PairData)
    weights = {}
    for cached in (True, False):
        work = tmp_path / str(cached)
        work.mkdir()
        torch.manual_seed(7)
        rows = (splits.train, splits.valid)
        task = prepare_matching(recipe.model, recipe.data, recipe.train, place / "base", rows, work)  # type: ignore[arg-type]
        seen = []
        task.model.encoder.register_forward_hook(
            lambda _, args, kwargs, output, seen=seen: seen.append(len(kwargs["input_ids"])), with_kwargs=True
        )
        if cached:
            task = cache_hidden_states(task, work)
        report = ProgressReport(TrainLog(work / "log.jsonl", 0), terminal=False)
        train_loop(task, recipe.train, 7, work, report)
        if cached:
            different = {(tuple(row["ids"]), tuple(row["types"])) for row in (*task.train, *task.valid)}
            assert sum(seen) == len(different)
            again = cache_hidden_states(task, work)  # as a resumed run does
            assert sum(seen) == len(different)
            row = task.train[0]
            torch.testing.assert_close(again.collate([row])["hidden"], task.collate([row])["hidden"], rtol=0, atol=0)
            assert len(list(work.glob("hidden-*"))) == 1
        else:
            assert sum(seen) > len(task.train) + len(task.valid)
        weights[cached] = task.model.state_dict()
    for key, value in weights[True].items():
        torch.testing.assert_close(value, weights[False][key], rtol=1e-3, atol=1e-4, msg=key)


def test_the_cache_goes_with_the_run(runs: dict[str, Path]) -> None:
    assert not (runs["frozen"] / "trainer").exists()
    assert not list(runs["frozen"].rglob("hidden-*"))


TOY = '''
from torch import nn
from models.sequence_encoder import SequenceConfig, SequenceEncoder


class Gate(nn.Module):
    """Each token by itself: a value and how much of it counts."""

    def __init__(self, width, out):
        super().__init__()
        self.out = out
        self.both = nn.Linear(width, 2 * out)

    def forward(self, x, mask):
        return nn.functional.glu(self.both(x)) * mask.unsqueeze(-1)


class GateConfig(SequenceConfig):
    model_type = "gate"


class GateModel(SequenceEncoder):
    config_class = GateConfig
    layer = Gate
'''


def test_an_architecture_is_one_file_and_one_line(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_gate.py").write_text(TOY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(ARCHITECTURES["encoder"], "gate", "toy_gate:GateModel")
    monkeypatch.setitem(ARCHITECTURES["pair head"], "gate", "toy_gate:Gate")
    register_networks.cache_clear()
    recipe = recipe_of(place, "toy", {"head": "gate", "encoder": {"architecture": "gate", **NEW}})
    train(recipe)
    (place / "toy.json").write_text(recipe.model_dump_json())
    assert compress([str(place / "toy.json")]) == 0
    manifest = read_manifest(recipe.run / "int8")
    assert (manifest.architecture, manifest.precision) == ("gate+gate", "int8")
    assert json.loads((recipe.run / "train.json").read_text())["status"] == "finished"
    (result,) = load_engine(recipe.run / "int8").score([Pair("card", "bank yes")])  # type: ignore[union-attr]
    assert isinstance(result, PairResult)
