"""`python -m training tune`: workers and searches that are killed, and a best recipe that `train` repeats."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.unit.training.tiny import encoder_folder, pair_rows, write_jsonl

pytestmark = pytest.mark.integration
# A model this small is slower on two threads than on one, and much slower on a busy machine.
ENVIRON = os.environ | {"OMP_NUM_THREADS": "1"}
RECIPE: dict[str, Any] = {
    "name": "tiny",
    "model": {"kind": "matching", "max_tokens": 48},
    "train": {"steps": 40, "validate_every": 10, "batch_size": 8},
    "tune": {
        "space": {
            "train.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
            "train.batch_size": {"type": "choice", "values": [4, 8]},
        },
        "sampler": "random",
        "trials": 3,
        "workers": 2,
    },
}


def recipe_file(folder: Path) -> Path:
    encoder_folder(folder / "base")
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "valid", "test")}
    for seed, (split, rows) in enumerate((("train", 120), ("valid", 40), ("test", 40))):
        write_jsonl(Path(files[split]), pair_rows(rows, seed))
    recipe = RECIPE | {"runs": str(folder / "runs"), "data": files}
    recipe["model"] = recipe["model"] | {"base": str(folder / "base")}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def training(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "training", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRON)


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, output + errors
    return output


def wait_for(what: Any, process: subprocess.Popen[str]) -> Any:
    while not (found := what()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return found


def test_a_killed_worker_costs_a_trial_and_a_killed_search_goes_on(tmp_path: Path) -> None:
    recipe = recipe_file(tmp_path)
    folder = tmp_path / "runs" / "tiny" / "tune" / "random"
    search = training("tune", recipe)

    def in_training() -> list[Path]:
        return [log for log in (folder / "trials").glob("*/train_log.jsonl") if log.stat().st_size]

    wait_for(in_training, search)
    workers = [each for each in psutil.Process(search.pid).children() if "spawn_main" in " ".join(each.cmdline())]
    os.kill(workers[0].pid, signal.SIGKILL)
    wait_for(lambda: "retried" in (folder / "journal.log").read_text(encoding="utf-8"), search)
    os.kill(search.pid, signal.SIGKILL)
    search.communicate()

    (found,) = json.loads(finish(training("tune", recipe, "--json")))
    assert found == json.loads((folder / "report.json").read_text(encoding="utf-8"))
    states = [trial["status"] for trial in found["trials"]]
    assert states.count("finished") == 3
    assert "failed" in states  # the trial whose worker was killed; its point was tried again
    tried = [trial["params"] for trial in found["trials"] if trial["status"] == "finished"]
    assert all(trial["params"] in tried for trial in found["trials"])
    assert (folder / "report.html").is_file()
    assert found["recipe"] == str(folder / "best.yaml")

    finish(training("train", folder / "best.yaml"))
    record = json.loads((tmp_path / "runs" / "tiny-best" / "train.json").read_text(encoding="utf-8"))
    assert record["best"]["value"] == pytest.approx(found["best"]["value"], abs=1e-4)


def test_a_space_that_the_recipe_refuses_is_refused_before_the_first_trial(tmp_path: Path) -> None:
    recipe = recipe_file(tmp_path)
    key = 'tune.space={"train.learning_rte": {"type": "float", "low": 0.1, "high": 1}}'
    process = training("tune", recipe, key)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "did you mean 'train.learning_rate'" in errors
    assert not (tmp_path / "runs" / "tiny" / "tune" / "random").exists()
