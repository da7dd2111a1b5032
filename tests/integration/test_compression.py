"""The pipeline of compression steps on a tiny matching run: artifacts, figures, what is done once."""

from __future__ import annotations

import json
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from runtime.backends.fake import VOCABULARY, byte_tokenizer
from runtime.contract import Pair
from runtime.encoder import EncoderEngine
from runtime.load import load_engine
from runtime.manifest import read_manifest, verify
from tests.unit.training.tiny import pair_rows, write_jsonl
from training.checkpoint import adopt_folder
from training.compression.command import main as compress

pytestmark = pytest.mark.integration
STEPS = ["compress.steps=[{step: export}, {step: int8}]"]


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    """A recipe whose checkpoint is there: untrained, which compression does not mind."""
    torch.manual_seed(3)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertForSequenceClassification(BertConfig(vocab_size=VOCABULARY, max_position_embeddings=64, **shape))
    torch.nn.init.normal_(model.classifier.weight, std=1.0)
    model.save_pretrained(tmp_path / "hub")
    PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(pairs=True)).save_pretrained(tmp_path / "hub")
    adopt_folder(tmp_path / "hub", tmp_path / "runs" / "tiny" / "checkpoint", max_tokens=48, threshold=0.1)
    files = {split: write_jsonl(tmp_path / f"{split}.jsonl", pair_rows(40, seed)) for seed, split in enumerate(SPLITS)}
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: tiny\nruns: {tmp_path / 'runs'}\nmodel: {{kind: matching, max_tokens: 48}}\n"
        f"data: {{{', '.join(f'{split}: {file}' for split, file in files.items())}}}\n"
    )
    return str(path)


SPLITS = ("train", "valid", "test")


def test_each_step_is_an_artifact_with_its_figures_and_is_done_once(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "tiny"
    assert compress([recipe, *STEPS]) == 0
    made = sorted(path.name for path in (run / "compressed").iterdir())
    assert [name.rsplit("-", 1)[0] for name in made] == ["1-export", "2-int8"]
    manifest = verify(run / "int8")
    assert [step.name for step in manifest.steps] == ["export", "int8"]
    for step in manifest.steps:
        assert step.parity
        assert step.latency_p50_ms
        assert step.memory_bytes
        assert 0 <= step.quality["f1"] <= 1
    assert manifest.threshold == manifest.steps[-1].quality["threshold"]
    load_engine(run / "int8").close()
    capsys.readouterr()

    created = {name: read_manifest(run / "compressed" / name).created for name in made}
    assert compress([recipe, *STEPS]) == 0
    assert capsys.readouterr().out.count("there already") == 2
    assert {name: read_manifest(run / "compressed" / name).created for name in made} == created

    # Another setting of the last step: the first is not run again. What is damaged is.
    (run / "compressed" / made[1] / "model.onnx").write_bytes(b"")
    assert compress([recipe, "compress.steps=[{step: export}, {step: int8, tolerance: 0.2}]"]) == 0
    assert capsys.readouterr().out.count("there already") == 1
    assert compress([recipe, *STEPS]) == 0
    assert capsys.readouterr().out.count("there already") == 1
    verify(run / "int8")


def test_a_refused_step_says_so_and_leaves_nothing(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compress([recipe, "compress.steps=[{step: export}, {step: int8, tolerance: 1.0e-9}]"]) == 1
    assert "the recipe allows 1e-09" in capsys.readouterr().err
    left = [path.name for path in (tmp_path / "runs/tiny/compressed").iterdir() if not path.name.startswith(".")]
    assert len(left) == 1
    assert not (tmp_path / "runs/tiny/int8").exists()
    assert compress([recipe, "compress.steps=[{step: int8}]"]) == 2
    assert "put an export between them" in capsys.readouterr().err


def test_auto_takes_one_of_the_forms_it_tried(recipe: str, tmp_path: Path) -> None:
    auto = "compress.steps=[{step: export}, {step: int8, form: auto, gate: 0.01, calibration: 4}]"
    assert compress([recipe, auto]) == 0
    made = verify(tmp_path / "runs/tiny/int8")
    record = made.steps[-1]
    tried = record.settings["tried"]
    assert {(each["form"], each["per_channel"]) for each in tried} == set(product(("dynamic", "static"), (True, False)))
    assert min(each["p50_ms"] for each in tried) > 0
    fastest = min(tried, key=lambda each: each["p50_ms"])  # all are within such a gate
    assert (record.settings["form"], record.settings["per_channel"]) == (fastest["form"], fastest["per_channel"])
    assert record.quality["f1"] == pytest.approx(fastest["f1"], abs=1e-5)
    assert not [path for path in (tmp_path / "runs/tiny/compressed").iterdir() if path.name.startswith(".work")]


def test_calibrated_ranges_are_constants_of_the_graph(recipe: str, tmp_path: Path) -> None:
    int8 = tmp_path / "runs/tiny/int8"
    scores = {}
    pairs = [Pair(row["text_a"], row["text_b"]) for row in pair_rows(8, seed=1)]
    for form, settings in (("dynamic", ""), ("static", ", form: static, calibration: 4")):
        assert compress([recipe, f"compress.steps=[{{step: export}}, {{step: int8{settings}}}]"]) == 0
        operators = Counter(node.op_type for node in onnx.load(int8 / "model.onnx").graph.node)
        # 2 layers of 4 products, pooler and classifier; the looks for extremes are what calibration saves.
        assert operators["QuantizeLinear"] == (10 if form == "static" else 0)
        assert (operators["DynamicQuantizeLinear"] > 0) == (form == "dynamic")
        assert all(weight.data_type != onnx.TensorProto.FLOAT for weight in _matrices(int8 / "model.onnx"))
        engine = load_engine(int8)
        assert isinstance(engine, EncoderEngine)
        scores[form] = np.asarray([result.score for result in engine.score(pairs)])
        engine.close()
    assert 0 < abs(scores["static"] - scores["dynamic"]).max() < 0.05
    assert "calibrated on 4 inputs" in verify(int8).steps[-1].settings["activations"]


def _matrices(graph: Path) -> list[onnx.TensorProto]:
    return [each for each in onnx.load(graph).graph.initializer if len(each.dims) == 2]


CANDIDATES = (
    "compress.candidates={fp32: [{step: export}], int8: [{step: export}, {step: int8}],"
    " strict: [{step: export}, {step: int8, tolerance: 1.0e-9}]}"
)


def test_a_search_makes_a_front_of_loadable_artifacts(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "tiny"
    goal = ["--goal", "f1 >= 0.5 teacher, smallest size"]
    assert compress([recipe, CANDIDATES, *goal, "--test"]) == 0
    front = json.loads((run / "front.json").read_text())
    points = {point["name"]: point for point in front["points"]}
    assert points["strict"]["status"] == "failed"
    assert "the recipe allows" in points["strict"]["why"]
    assert points["int8"]["chosen"]
    assert points["int8"]["size_bytes"] < points["fp32"]["size_bytes"] < 2 * front["teacher"]["size_bytes"]
    for name in ("fp32", "int8"):
        point = points[name]
        assert point["latency_ms"]["low"] <= point["latency_ms"]["p50"] <= point["latency_ms"]["high"]
        assert verify(tmp_path / "runs" / point["artifact"]).digest == point["digest"]
    assert front["command"].endswith("--test")
    assert front["test"]["int8"]["f1_of_teacher"]["low"] <= 1.5
    # Test was touched for the front alone.
    tested = {name for name, point in points.items() if point["status"] == "made" and _tested(tmp_path, point)}
    assert tested == {name for name, point in points.items() if point["on_front"]} == set(front["test"]) - {"teacher"}
    page = (run / "front.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 1
    assert "strict" in page

    capsys.readouterr()
    assert compress([recipe, CANDIDATES, "--goal", "f1 >= 2 teacher, smallest p50"]) == 1  # nothing can
    assert capsys.readouterr().out.count("export: there already") == 3


def _tested(root: Path, point: dict[str, Any]) -> bool:
    manifest = read_manifest(root / "runs" / point["artifact"])
    return any(evaluation.split == "test" for evaluation in manifest.evaluations)


def test_a_search_needs_data_and_an_intelligible_goal(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compress([str(tmp_path / "hub"), "--search"]) == 1
    assert "needs data" in capsys.readouterr().err
    assert compress([recipe, "--goal", "the best"]) == 1
    assert "smallest p50" in capsys.readouterr().err
    assert compress([recipe, "--search", "--seeds", "1"]) == 1
    assert "tiny-1 has no checkpoint" in capsys.readouterr().err


def test_what_cannot_win_by_its_shape_is_not_trained(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = "[{step: layers, keep: 1}, {step: distill}, {step: export}]"  # by the recipe's training: 10,000 batches
    goal = "f1 >= 0.5 teacher, size <= 0.01 teacher, smallest size"
    assert compress([recipe, f"compress.candidates={{student: {steps}}}", "--goal", goal]) == 1
    told = capsys.readouterr().out
    assert "student: pruned, its shape alone has size_bytes" in told
    assert "distill:" not in told
    left = [path.name for path in (tmp_path / "runs/tiny/compressed").iterdir() if path.is_dir()]
    assert left == []
