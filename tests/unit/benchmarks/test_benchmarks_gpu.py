"""`make gpu-check`: says plainly when there is no GPU, and counts only what passed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import CONTRACT, main, run_contract

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[3]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]


@pytest.mark.parametrize(
    ("engine", "missing", "remedy"),
    [
        ("onnx", "CUDAExecutionProvider", "requirements/gpu.txt"),
        ("vllm", "vllm", "requirements/gpu-generation.txt"),
    ],
)
def test_without_a_gpu_it_says_so_runs_nothing_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: str, missing: str, remedy: str
) -> None:
    assert main(["--out", str(tmp_path), "--engine", engine]) == 1
    said = capsys.readouterr().err
    assert said.startswith("gpu-check: nothing was run, because there is no GPU")
    assert missing in said
    assert remedy in said
    assert list(tmp_path.iterdir()) == []


def test_a_skipped_test_did_not_pass(tmp_path: Path) -> None:
    tests = tmp_path / "test_sample.py"
    tests.write_text(
        "import pytest\ndef test_good(): pass\ndef test_bad(): assert False\n"
        "@pytest.mark.skip\ndef test_skipped(): pass\n"
    )
    result = run_contract([*PYTEST, "--rootdir", str(tmp_path), str(tests)], tmp_path)
    assert (result["tests"], result["passed"]) == (3, 1)
    assert [name.rpartition(".")[2] for name in result["not_passed"]] == ["test_bad", "test_skipped"]


def test_what_could_not_run_did_not_pass(tmp_path: Path) -> None:
    result = run_contract([sys.executable, "-c", "", "nothing"], tmp_path)
    assert (result["tests"], result["not_passed"]) == (0, ["pytest could not run"])


def test_the_contract_can_be_collected_where_it_cannot_pass() -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", CONTRACT]
    collected = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert collected.returncode == 0, collected.stdout
    assert collected.stdout.count("test_every_heavy_operator_runs_on_the_gpu") == 6
    assert not Path(CONTRACT).match("test_*.py")  # the suite collects nothing that must fail here
