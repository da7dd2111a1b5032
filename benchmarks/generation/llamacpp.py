"""llama.cpp for the benchmark: its server compiled from the sources that llama-cpp-python's package carries, and models
in its file format. Both are made once, below .tools/peers/llamacpp and beside the model."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.environments import FOLDER, environment
from demo.commands import StepFailed

SOURCES = "llama-cpp-python==0.3.36"
SCRIPT = Path("benchmarks/peers/gguf_model.py")
# A server alone: no web page, no TLS, no downloads, for the processor of this machine.
OPTIONS = "LLAMA_CURL=OFF LLAMA_OPENSSL=OFF LLAMA_BUILD_UI=OFF LLAMA_BUILD_TESTS=OFF LLAMA_BUILD_EXAMPLES=OFF"


def llama_server() -> Path:
    """The program, compiled first where it is missing. Raises StepFailed."""
    environment("llamacpp")
    home = (FOLDER / "llamacpp").absolute()
    program = home / "server/bin/llama-server"
    if program.is_file():
        return program
    if missing := [tool for tool in ("cmake", "ninja", "c++") if shutil.which(tool) is None]:
        raise StepFailed(f"llama.cpp is compiled with {', '.join(missing)}, which this machine lacks.")
    print("  compiling llama.cpp's server (ten minutes or so)", file=sys.stderr, flush=True)
    sources = home / "sources"
    shutil.rmtree(sources, ignore_errors=True)
    sources.mkdir(parents=True)
    _run([str(home / "bin/pip"), "download", "-qq", "--no-deps", "--no-binary", ":all:", SOURCES, "-d", str(sources)])
    archive = next(sources.glob("*.tar.gz"))
    _run(["tar", "-xzf", str(archive), "-C", str(sources)])
    tree = next(sources.glob("*/vendor/llama.cpp"))
    defined = [f"-D{option}" for option in OPTIONS.split()]
    _run(["cmake", "-S", str(tree), "-B", str(home / "server"), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", *defined])
    _run(["ninja", "-C", str(home / "server"), "llama-server"])
    return program


def gguf_file(folder: Path, precision: str) -> Path:
    """The model of a transformers folder in llama.cpp's format, beside it. Raises StepFailed."""
    target = folder.with_name(f"{folder.name}-{precision}.gguf")
    if not target.is_file():
        partial = target.with_suffix(".partial")
        _run([str(environment("llamacpp") / "python"), str(SCRIPT), str(folder), precision, str(partial)])
        partial.rename(target)
    return target


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise StepFailed(f"`{' '.join(command)}` failed: {done.stdout.strip()[-500:]}")
