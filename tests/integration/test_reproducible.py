"""The same recipe and seed give the same metrics, in two processes; another seed gives others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_training_matching import ENVIRON
from tests.unit.training.tiny import encoder_folder, pair_rows, write_jsonl

pytestmark = pytest.mark.integration
KINDS = ("matching", "embedding", "generation")
TRAIN = "train: {learning_rate: 2.0e-3, steps: 4, validate_every: 2, batch_size: 8}\n"
SHAPE = "vocab_size: 300, max_tokens: 32, layers: 1, hidden: 32, heads: 2, dropout: 0.1"
ALL_KINDS = (
    "import sys; from training.train import main\n"
    "folder, name, seed = sys.argv[1:]\n"
    "for kind in ('matching', 'embedding', 'generation'):\n"
    "    assert main([f'{folder}/{kind}.yaml', f'name={name}-{kind}', f'seed={seed}']) == 0"
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes that train every kind with one seed, and a third with another, side by side."""
    folder = tmp_path_factory.mktemp("reproducible")
    (folder / "text.txt").write_text("".join(f"the {word} sat on the mat\n" for word in ("cat", "hen") * 300))
    encoder_folder(folder / "base")
    for seed, split in enumerate(("train", "valid", "test")):
        write_jsonl(folder / f"{split}.jsonl", pair_rows(48, seed))
    pairs = "{" + ", ".join(f"{split}: {folder}/{split}.jsonl" for split in ("train", "valid", "test")) + "}"
    for kind in KINDS:
        model, data = f"{{kind: {kind}, base: {folder}/base, max_tokens: 48, dropout: 0.2}}", pairs
        if kind == "generation":
            model, data = f"{{kind: generation, {SHAPE}}}", f"{{train: {folder}/text.txt}}"
        (folder / f"{kind}.yaml").write_text(f"name: r\nruns: {folder}/runs\nmodel: {model}\ndata: {data}\n{TRAIN}")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ALL_KINDS, str(folder), name, seed], env=ENVIRON, stderr=subprocess.PIPE, text=True
        )
        for name, seed in (("one", "7"), ("two", "7"), ("other", "8"))
    ]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    return folder / "runs"


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_recipe_and_seed_give_the_same_metrics(runs: Path, kind: str) -> None:
    def record(name: str) -> dict[str, Any]:
        read: dict[str, Any] = json.loads((runs / f"{name}-{kind}" / "train.json").read_text(encoding="utf-8"))
        return read

    one, two, other = record("one"), record("two"), record("other")
    for part in ("valid", "test"):
        assert one[part] == pytest.approx(two[part], abs=1e-4)
    assert one["best"]["value"] == pytest.approx(two["best"]["value"], abs=1e-4)
    assert one["valid"] != pytest.approx(other["valid"], abs=1e-4)
