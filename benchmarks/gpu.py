"""`python -m benchmarks.gpu`, or `make gpu-check`: the encoders' contract tests on the GPU of this machine, with
`--engine vllm` those of generation by vLLM, and a result file that names it. Not a benchmark: it says whether a GPU
gives what a CPU gives, not how fast."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from benchmarks.figures import RESULTS, Result, write_result
from runtime.backends.onnx import require_cuda
from runtime.backends.vllm import require_vllm
from runtime.errors import DeviceRefused

CONTRACT = "tests/integration/gpu_contract.py"
VLLM_CONTRACT = "tests/integration/vllm_contract.py"
NAMED = ("name", "driver_version", "memory.total")


def gpus() -> list[dict[str, str]]:
    """Name, driver and memory of each GPU, as the driver's own tool says. Raises OSError, CalledProcessError."""
    query = ["nvidia-smi", f"--query-gpu={','.join(NAMED)}", "--format=csv,noheader"]
    lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    return [dict(zip(NAMED, (value.strip() for value in line.split(",")), strict=True)) for line in lines]


def run_contract(command: list[str], scratch: Path) -> Result:
    """Run pytest on the contract; how many tests there were and which of them did not pass."""
    report = scratch / "contract.xml"
    subprocess.run([*command, f"--junitxml={report}"])
    if not report.is_file():
        return {"tests": 0, "passed": 0, "not_passed": ["pytest could not run"]}
    cases = list(ElementTree.parse(report).iter("testcase"))
    bad = [case for case in cases if any(case.find(outcome) is not None for outcome in ("failure", "error", "skipped"))]
    names = [f"{case.get('classname', '').rpartition('.')[2]}.{case.get('name')}" for case in bad]
    return {"tests": len(cases), "passed": len(cases) - len(bad), "not_passed": names}


def main(arguments: list[str]) -> int:
    """Exit codes: 0 every test passed on the GPU, 1 not, or there is no GPU, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where gpu.json goes")
    parser.add_argument(
        "--engine", choices=("onnx", "vllm"), default="onnx", help="whose contract: default %(default)s"
    )
    options = parser.parse_args(arguments)
    vllm = options.engine == "vllm"
    try:
        (require_vllm if vllm else require_cuda)("cuda:0")
        found = gpus()
    except (DeviceRefused, OSError, subprocess.CalledProcessError) as error:
        print(f"gpu-check: nothing was run, because there is no GPU to run on. {error}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as scratch:
        contract = run_contract([sys.executable, "-m", "pytest", VLLM_CONTRACT if vllm else CONTRACT], Path(scratch))
    measured = {"gpus": found, "contract": contract}
    name, command = (
        ("gpu-vllm", "python -m benchmarks.gpu --engine vllm") if vllm else ("gpu", "python -m benchmarks.gpu")
    )
    path = write_result(name, command, measured, options.out)
    print(f"gpu-check: {contract['passed']} of {contract['tests']} tests passed on {found[0]['name']}; {path}")
    return 0 if contract["tests"] and not contract["not_passed"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
