"""`python -m training explain` on a run that was really trained and compressed: all topics, against `evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.manifest import verify
from tests.unit.training.tiny import encoder_folder, pair_rows, write_jsonl
from training.compression.command import main as compress
from training.evaluate import main as evaluate
from training.explain.command import main as explain
from training.train import main as train

pytestmark = pytest.mark.integration


def test_a_trained_and_compressed_run_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder_folder(tmp_path / "base")
    for seed, (split, count) in enumerate({"train": 120, "valid": 60, "test": 20}.items()):
        write_jsonl(tmp_path / f"{split}.jsonl", pair_rows(count, seed))
    data = ", ".join(f"{split}: {tmp_path}/{split}.jsonl" for split in ("train", "valid", "test"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"name: tiny\nruns: {tmp_path}/runs\nmodel: {{kind: matching, base: {tmp_path}/base, max_tokens: 48}}\n"
        f"data: {{{data}}}\ntrain: {{learning_rate: 2.0e-3, steps: 4, validate_every: 2, batch_size: 8}}\n"
        "compress: {steps: [{step: export}, {step: int8, tolerance: 0.5}]}\n"
    )
    run = tmp_path / "runs" / "tiny"
    assert train([str(recipe)]) == 0
    assert compress([str(recipe)]) == 0
    assert explain([str(run), "--seconds", "0", "--lang", "zh"]) == 0
    verify(run / "checkpoint")
    topics = json.loads((run / "explain.json").read_text(encoding="utf-8"))["topics"]
    assert topics.keys() == {"quality", "errors", "behaviours", "flips", "training", "inference"}

    exported, quantised = topics["flips"]["steps"]
    assert (exported["parent"], exported["steps"]) == ("checkpoint", ["export"])
    assert (quantised["parent"], quantised["steps"]) == (exported["artifact"], ["int8"])
    assert (topics["training"]["steps"], len(topics["training"]["series"]) > 2) == (4, True)
    speed = topics["inference"]["artifacts"]
    assert {each["format"] for each in speed} == {"torch", "onnx"}
    for each in speed:
        assert each["load_s"] > 0
        assert each["memory_peak_bytes"] > each["memory_loaded_bytes"] > 0
        # The artifact takes 48 tokens; a budget of nothing times each request once.
        assert {(cell["batch"], cell["tokens"], cell["runs"]) for cell in each["cells"]} == {
            (batch, length, 1) for batch in (1, 8, 32) for length in (16, 32)
        }

    capsys.readouterr()
    assert evaluate([str(run / "checkpoint"), "--split", "valid", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    for name, found in topics["quality"]["metrics"].items():
        assert found["value"] == pytest.approx(told["metrics"][name], abs=1e-5), name
