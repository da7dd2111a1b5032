"""`python -m training train` on pairs of one's own: killed and resumed, refused, repeated, started over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from runtime.contract import Pair
from runtime.load import load_engine
from runtime.manifest import read_manifest
from runtime.matching import MatchingEngine
from tests.unit.training.tiny import encoder_folder, pair_rows, write_jsonl
from training.evaluate import main as evaluate
from training.train import main as train

pytestmark = pytest.mark.integration
STEPS, EVERY = 300, 20
# A model this small is slower on two threads than on one, and much slower on a busy machine.
ENVIRON = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base, three splits with repeated and bad rows in train, and a recipe."""
    folder = tmp_path_factory.mktemp("training")
    encoder_folder(folder / "base")
    rows: list[dict[str, Any]] = [*pair_rows(300, 1), {"text_a": "", "text_b": "b", "label": 1}]
    rows += [rows[0], {**rows[1], "text_a": rows[1]["text_b"], "text_b": rows[1]["text_a"]}]
    write_jsonl(folder / "train.jsonl", rows)
    write_jsonl(folder / "valid.jsonl", pair_rows(60, 2))
    write_jsonl(folder / "test.jsonl", pair_rows(80, 3))
    (folder / "recipe.yaml").write_text(
        f"name: tiny\nruns: {folder}/runs\n"
        f"model: {{kind: matching, base: {folder}/base, max_tokens: 48, dropout: 0.2}}\n"
        f"data: {{train: {folder}/train.jsonl, valid: {folder}/valid.jsonl, test: {folder}/test.jsonl,\n"
        "  bad_rows: reject, max_reject_share: 0.05, duplicates: drop}\n"
        f"train: {{learning_rate: 2.0e-3, steps: {STEPS}, validate_every: {EVERY}, batch_size: 8}}\n"
    )
    return folder


def command(place: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "training", "train", str(place / "recipe.yaml"), *overrides]


@pytest.fixture(scope="module")
def whole(place: Path) -> subprocess.CompletedProcess[str]:
    """The run `tiny`, uninterrupted."""
    done = subprocess.run(command(place), capture_output=True, text=True, timeout=300, env=ENVIRON)
    assert done.returncode == 0, done.stderr
    return done


def test_the_checkpoint_is_an_artifact_that_the_engine_loads(
    place: Path, whole: subprocess.CompletedProcess[str]
) -> None:
    checkpoint = place / "runs/tiny/checkpoint"
    manifest = read_manifest(checkpoint)
    assert (manifest.kind, manifest.format, manifest.architecture, manifest.precision) == (
        "matching", "torch", "bert", "fp32",
    )  # fmt: skip
    assert (manifest.labels, manifest.positive_label, manifest.max_tokens) == (("0", "1"), 1, 48)
    assert (manifest.seed, manifest.parent) == (7, None)
    evaluated = {each.split: each for each in manifest.evaluations}
    assert {each: entry.rows for each, entry in evaluated.items()} == {"valid": 60, "test": 80}
    assert {split: entry.dataset_sha256 for split, entry in evaluated.items()}.items() <= manifest.datasets.items()
    # It has learned what there is to learn: seven of eight.
    assert evaluated["test"].metrics["accuracy"] > 0.75
    assert manifest.threshold == pytest.approx(evaluated["test"].metrics["threshold"], abs=1e-6)
    engine = load_engine(checkpoint)
    assert isinstance(engine, MatchingEngine)
    (result,) = engine.score([Pair("card 1", "card 2")])
    assert 0 < result.score < 1  # type: ignore[union-attr]


def test_the_run_folder_tells_what_happened(place: Path, whole: subprocess.CompletedProcess[str]) -> None:
    run = place / "runs/tiny"
    report = json.loads((run / "data_report.json").read_text())["splits"]["train"]
    assert (report["read"], report["used"], report["rejected"], report["dropped_duplicates"]) == (303, 300, 1, 2)
    (reject,) = map(json.loads, (run / "rejects.jsonl").read_text().splitlines())
    assert (reject["where"], reject["reason"]) == (f"{place}/train.jsonl:301", "text_a is empty")
    entries = [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries if "valid_average_precision" in entry] == list(
        range(EVERY, STEPS + 1, EVERY)
    )
    rates = {entry["step"]: entry["lr"] for entry in entries if "lr" in entry}
    assert max(rates.values()) == pytest.approx(2e-3, rel=0.01)
    assert min(rates, key=lambda step: abs(rates[step] - 2e-3)) == pytest.approx(STEPS // 20, abs=4)  # warm-up
    assert rates[STEPS] < 1e-6  # cosine
    best = json.loads((run / "train.json").read_text())["best"]
    figures = {entry["step"]: entry["valid_average_precision"] for entry in entries if "valid_loss" in entry}
    assert best["step"] == max(figures, key=lambda step: (figures[step], -step))
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not (run / "trainer").exists()
    assert "rejected 1: text_a is empty" in whole.stdout
    assert f"at step {best['step']} of {STEPS}" in whole.stdout


def test_killed_moved_and_started_again_it_ends_with_the_very_same_weights(
    place: Path, whole: subprocess.CompletedProcess[str]
) -> None:
    run = place / "runs/killed"
    process = subprocess.Popen(
        command(place, "name=killed"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=ENVIRON
    )
    try:
        wait_for_checkpoint(run / "trainer", 3 * EVERY, process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (run / "checkpoint").exists()
    # As if the kill had come in the middle of a write.
    (run / "trainer/checkpoint-299").mkdir()
    (run / "trainer/checkpoint-299/trainer_state.json").write_text('{"best_metr')
    (place / "moved").mkdir()
    run = run.rename(place / "moved/killed")

    resumed = subprocess.run(
        command(place, "name=killed", f"runs={place}/moved"), capture_output=True, text=True, timeout=300, env=ENVIRON
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming after step" in resumed.stdout
    record = json.loads((run / "train.json").read_text())
    # The kill may have cut off the very checkpoint that was waited for; then it is the one before.
    assert STEPS > record["resumed_after_steps"][0] >= 2 * EVERY

    weights, expected = (load_file(each / "checkpoint/model.safetensors") for each in (run, place / "runs/tiny"))
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(weights[name], value), name
    one, other = (read_manifest(each / "checkpoint") for each in (run, place / "runs/tiny"))
    assert (one.files["model.safetensors"], one.threshold) == (other.files["model.safetensors"], other.threshold)
    # The log has each validation once, as if nothing had happened.
    logs = [
        [
            (entry["step"], entry["valid_loss"])
            for entry in map(json.loads, (each / "train_log.jsonl").read_text().splitlines())
            if "valid_loss" in entry
        ]
        for each in (run, place / "runs/tiny")
    ]
    assert logs[0] == logs[1]


def wait_for_checkpoint(folder: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    """Until a whole checkpoint at `step` or later is there, while the training runs."""
    ends = time.monotonic() + 120
    while time.monotonic() < ends:
        assert process.poll() is None, process.communicate()[1]
        states = folder.glob("checkpoint-*/trainer_state.json")
        if any(int(path.parent.name.rpartition("-")[2]) >= step for path in states):
            return
        time.sleep(0.005)
    raise AssertionError(f"no checkpoint {step} below {folder}")


def test_finished_it_says_so_and_does_nothing(
    place: Path, whole: subprocess.CompletedProcess[str], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = place / "runs/tiny/checkpoint/manifest.json"
    before = (manifest.read_bytes(), manifest.stat().st_mtime_ns)
    assert train([str(place / "recipe.yaml")]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert (manifest.read_bytes(), manifest.stat().st_mtime_ns) == before


def test_changed_it_is_refused_until_told_to_start_over(
    place: Path, whole: subprocess.CompletedProcess[str], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(place / "recipe.yaml")
    assert train([recipe, "train.learning_rate=1.0e-3", "train.steps=6"]) == 1
    told = capsys.readouterr().err
    assert "train.learning_rate: was 0.002, is 0.001" in told
    assert "train.steps: was 300, is 6" in told
    assert "--fresh" in told

    rows = [json.loads(line) for line in (place / "train.jsonl").read_text().splitlines()]
    changed = write_jsonl(place / "more.jsonl", [*rows, *pair_rows(2, 77)])
    assert train([recipe, f"data.train={changed}"]) == 1
    assert "rows of data.train: was" in capsys.readouterr().err

    other = ["name=other", "train.steps=4", "train.validate_every=3"]
    assert train([recipe, *other]) == 0
    (place / "runs/other/int8").mkdir()
    assert train([recipe, *other, "seed=8"]) == 1
    assert train([recipe, *other, "seed=8", "--fresh"]) == 0
    assert read_manifest(place / "runs/other/checkpoint").seed == 8
    assert not (place / "runs/other/int8").exists()


def test_a_run_folder_trains_once_at_a_time(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import fcntl

    (place / "runs/busy").mkdir(parents=True)
    with (place / "runs/busy/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert train([str(place / "recipe.yaml"), "name=busy"]) == 1
    assert "in use by another process" in capsys.readouterr().err


def test_evaluate_finds_the_data_of_the_run(
    place: Path, whole: subprocess.CompletedProcess[str], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = place / "runs/tiny/checkpoint"
    before = read_manifest(checkpoint)
    assert evaluate([str(checkpoint), "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    recorded = next(each for each in before.evaluations if each.split == "test")
    assert result["metrics"] == recorded.metrics
    assert result["same_rows_as_training"] is True
    assert len(read_manifest(checkpoint).evaluations) == len(before.evaluations)
    other = write_jsonl(place / "other-test.jsonl", pair_rows(30, 99))
    assert evaluate([str(checkpoint), "--recipe", str(place / "recipe.yaml"), f"data.test={other}"]) == 0
    assert "other rows than at training" in capsys.readouterr().out
    assert len(read_manifest(checkpoint).evaluations) == len(before.evaluations) + 1


def test_what_cannot_be_trained_is_said_in_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(place / "recipe.yaml")
    for overrides, message in (
        (["model.base=/nowhere"], "no such folder"),
        (["model.max_tokens=4096"], "the base has 64 positions"),
        (["data.train=/nowhere.jsonl"], "no such file"),
        (["data.bad_rows=fail"], "train.jsonl:301: text_a is empty"),
        (["train.learning_rate=1.0e+30", "train.warmup_steps=0", "train.steps=30"], "diverged"),
    ):
        assert train([recipe, "name=refused", "--fresh", *overrides]) == 1, overrides
        told = capsys.readouterr().err
        assert message in told
        assert "Traceback" not in told
    assert train([recipe, "model.bse=x"]) == 2
    assert "did you mean 'base'" in capsys.readouterr().err


def test_the_record_says_what_the_run_took(place: Path, whole: subprocess.CompletedProcess[str]) -> None:
    run = place / "runs/tiny"
    record = json.loads((run / "train.json").read_text())
    usage, lengths = record["usage"], STEPS * 8
    assert list(usage["stage_seconds"]) == ["data", "prepare", "train", "validate", "checkpoint", "save", "evaluate"]
    # 300 rows in batches of 8: the last of each epoch has 4.
    assert lengths * 0.95 < usage["rows"] < lengths
    assert usage["tokens"] > 10 * usage["rows"]
    assert usage["rows_per_s"] == pytest.approx(usage["rows"] / usage["stage_seconds"]["train"], rel=0.01)
    assert usage["peak_memory_bytes"] > 1 << 26
    assert record["threads"] == 1
    assert record["hardware"]["cores"] >= 1
    assert record["artifacts"] == {"checkpoint": read_manifest(run / "checkpoint").digest}


@pytest.mark.parametrize("name", ["runs/tiny", "moved/killed"])
def test_tensorboard_reads_each_step_of_the_log_once(
    place: Path, whole: subprocess.CompletedProcess[str], name: str
) -> None:
    """`killed` comes from the test above and was resumed."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(place / name / "tensorboard"), purge_orphaned_data=False).Reload()
    entries = [json.loads(line) for line in (place / name / "train_log.jsonl").read_text().splitlines()]
    for tag, key in (("train/loss", "loss"), ("train/learning_rate", "lr"), ("valid/loss", "valid_loss")):
        expected = [(entry["step"], pytest.approx(entry[key])) for entry in entries if key in entry]
        assert [(scalar.step, scalar.value) for scalar in events.Scalars(tag)] == expected
    assert set(events.Tags()["scalars"]) == {
        "train/loss", "train/learning_rate", "valid/loss", "valid/average_precision",
    }  # fmt: skip
