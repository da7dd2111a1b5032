"""The same recipe and seed give the same metrics, in two processes; another seed gives others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.test_training_matching import ENVIRON
from tests.unit.training.tiny import encoder_folder, pair_rows, write_jsonl

pytestmark = pytest.mark.integration
TRAIN = "train: {learning_rate: 2.0e-3, steps: 8, validate_every: 4, batch_size: 8}\n"
SHAPE = "vocab_size: 300, max_tokens: 32, layers: 1, hidden: 32, heads: 2, dropout: 0.1"
THREE_RUNS = (
    "import sys; from training.train import main\n"
    "recipe, name = sys.argv[1:]\n"
    "sys.exit(main([recipe, 'name=' + name]) or main([recipe, 'name=other', 'seed=8', '--fresh']))"
)


@pytest.mark.parametrize("kind", ["matching", "embedding", "generation"])
def test_the_same_recipe_and_seed_give_the_same_metrics(tmp_path: Path, kind: str) -> None:
    if kind == "generation":
        (tmp_path / "text.txt").write_text("".join(f"the {word} sat on the mat\n" for word in ("cat", "hen") * 300))
        model, data = f"{{kind: generation, {SHAPE}}}", f"{{train: {tmp_path}/text.txt}}"
    else:
        encoder_folder(tmp_path / "base")
        for split, count in (("train", 80), ("valid", 40), ("test", 40)):
            write_jsonl(tmp_path / f"{split}.jsonl", pair_rows(count, count))
        model = f"{{kind: {kind}, base: {tmp_path}/base, max_tokens: 48, dropout: 0.2}}"
        data = "{" + ", ".join(f"{split}: {tmp_path}/{split}.jsonl" for split in ("train", "valid", "test")) + "}"
    (tmp_path / "recipe.yaml").write_text(f"name: r\nruns: {tmp_path}/runs\nmodel: {model}\ndata: {data}\n{TRAIN}")
    for name in ("one", "two"):
        command = [sys.executable, "-c", THREE_RUNS, str(tmp_path / "recipe.yaml"), name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRON)
        assert done.returncode == 0, done.stderr
    one, two, other = (
        json.loads((tmp_path / "runs" / name / "train.json").read_text()) for name in ("one", "two", "other")
    )
    for part in ("valid", "test"):
        assert one[part] == pytest.approx(two[part], abs=1e-4)
    assert one["best"]["value"] == pytest.approx(two["best"]["value"], abs=1e-4)
    assert one["valid"] != pytest.approx(other["valid"], abs=1e-4)
