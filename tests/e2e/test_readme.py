"""The README's own commands, run as they stand there: own data, a folder, the API, a batch job, a load test."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import torch
import yaml
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from runtime.backends.fake import byte_tokenizer
from runtime.manifest import Kind
from tests.e2e.serving_process import ROOT, Server, environment, publish, serve

pytestmark = pytest.mark.e2e
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(section: str) -> str:
    """All shell blocks of a section, as one script."""
    text = README.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))


def shell(script: str, home: Path, cwd: Path) -> str:
    """Run a script in which python and bentoml are this environment's; returns what it printed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=cwd,
        env={**environment(home), "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    for kind in get_args(Kind):
        publish(home, kind, kind)
    return home


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    with serve(home) as running:
        yield running


def test_the_api_answers_the_readmes_calls(server: Server, home: Path) -> None:
    script = commands("The API").replace("localhost:3000", f"127.0.0.1:{server.port}").replace("curl ", "curl -f ")
    printed = shell(script, home, ROOT)
    assert printed.count('"results"') == 2
    assert printed.count('"embedding":[') == 2
    assert printed.rstrip().endswith("data: [DONE]")


def test_the_load_test_passes_on_it(server: Server, home: Path, tmp_path: Path) -> None:
    script = commands("Load test").replace("127.0.0.1:3000", f"127.0.0.1:{server.port}")
    script = script.replace("--duration 30", f"--duration 3 --warm-up 1 --out {tmp_path}")
    assert "verdict: pass" in shell(script, home, ROOT)
    assert (tmp_path / "report.html").is_file()


def own_data(folder: Path) -> None:
    """Three splits of pairs, and a tiny base, so that a training takes seconds."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=258, **shape)
    BertForSequenceClassification(config).save_pretrained(folder / "base")
    PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(pairs=True)).save_pretrained(folder / "base")
    rows = [{"text_a": f"word {n % 4}", "text_b": f"word {n % 3}", "label": int(n % 4 == n % 3)} for n in range(60)]
    for number, split in enumerate(("train", "valid", "test")):
        mine = [json.dumps({**row, "text_a": f"{row['text_a']} {split}{n}"}) for n, row in enumerate(rows[number:])]
        (folder / f"{split}.jsonl").write_text("\n".join(mine) + "\n")


def test_own_data_becomes_a_published_model(home: Path, tmp_path: Path) -> None:
    """Every command and key is the README's."""
    own_data(tmp_path)
    block = commands("Your own data in five minutes").split("bentoml serve")[0]
    small = "model.base=base train.freeze_embeddings=false train.steps=4 train.warmup_steps=1 train.validate_every=2"
    script = block.replace(" name=faq", f" name=faq {small}").replace("training/recipes", f"{ROOT}/training/recipes")
    printed = shell(script, home, tmp_path)
    assert re.search(r"published faq:\S+ \(matching, int8\)", printed)
    assert "is production of faq" in printed


def test_the_training_lab_leaves_what_the_readme_says(home: Path, tmp_path: Path) -> None:
    """Two trials, two candidates and no measuring of speed, so that it takes seconds."""
    own_data(tmp_path)
    recipe = yaml.safe_load((ROOT / "training/recipes/demo-matching.yaml").read_text(encoding="utf-8"))
    added = re.search(r"```yaml\n# added to faq.yaml\n(.*?)```", README, re.DOTALL)
    assert added
    recipe |= {"name": "faq", "data": {split: f"{split}.jsonl" for split in ("train", "valid", "test")}}
    recipe |= yaml.safe_load(added[1])
    recipe["model"]["base"] = "base"
    recipe["train"] |= {"freeze_embeddings": False, "steps": 4, "warmup_steps": 1, "validate_every": 2}
    recipe["tune"]["trials"] = 2
    export: list[dict[str, str]] = [{"step": "export"}]
    recipe["compress"] = {"candidates": {"fp32": export, "int8": [*export, {"step": "int8"}]}}
    (tmp_path / "faq.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    script = commands("The training lab").replace("runs/faq ", "runs/faq --skip inference ")
    printed = shell(f"python -m training train faq.yaml\n{script}", home, tmp_path)
    run = tmp_path / "runs/faq"
    for made in ("review/review.csv", "tune/tpe/best.yaml", "tune/tpe/report.html", "explain.html", "explain.json"):
        assert (run / made).is_file(), made
    assert list(run.rglob("front.html"))
    assert re.search(r"^faq +finished +matching", printed, re.MULTILINE)


def test_the_batch_job_runs(home: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs/a.jsonl").write_text('{"text_a": "a b", "text_b": "a b"}\n')
    job = re.search(r"```yaml\n# job.yaml\n(.*?)```", README, re.DOTALL)
    assert job
    (tmp_path / "job.yaml").write_text(job[1].replace("s3://my-bucket", str(tmp_path)))
    assert "1 rows in, 1 out, 0 bad" in shell(commands("Batch"), home, tmp_path)
