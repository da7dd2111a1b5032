"""Who may import whom. The rooms stay rooms because this test fails when one reaches into another."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]
ROOMS = {
    "models",
    "records",
    "runtime",
    "training",
    "serving",
    "batch",
    "loadtests",
    "infra",
    "benchmarks",
    "demo",
    "tests",
}
ALLOWED_ROOMS = {
    "models": set(),
    "records": set(),
    "runtime": {"models"},  # only runtime/backends/torch.py, see below
    "training": {"models", "records", "runtime"},
    "serving": {"runtime"},
    "batch": {"records", "runtime"},
    "loadtests": set(),
    "infra": set(),
    "benchmarks": {"demo", "runtime"},  # of demo: starting and stopping the server
    "demo": set(),
}
# heavy or outward library -> the only files (or rooms, with a trailing slash) that may import it
CONFINED = {
    "torch": {
        "models/",
        "training/",
        "runtime/backends/torch.py",
        "benchmarks/peers/",
        "benchmarks/generation/random_weights.py",
    },
    "transformers": {
        "models/",
        "training/",
        "runtime/backends/torch.py",
        "benchmarks/generation/random_weights.py",
    },
    "onnxruntime": {
        "runtime/backends/onnx.py",
        "runtime/backends/onnx_seq2seq.py",
        "training/",
        "benchmarks/raw.py",
        "benchmarks/peers/",
    },
    "llguidance": {"runtime/grammar.py"},
    "vllm": {"runtime/backends/vllm.py"},
    "bentoml": {"serving/", "training/publish.py", "service.py", "benchmarks/peers/"},
    "locust": {"loadtests/"},
    "boto3": {"demo/", "records/", "infra/"},
    "fastapi": {"serving/", "benchmarks/peers/"},
    "starlette": {"serving/"},
    "pyarrow": {"records/", "batch/"},
    "ray": set(),
    "onnx": {"training/"},
    "cleanlab": {"training/review/label_errors.py"},
    "prometheus_client": set(),
    "opentelemetry": {"serving/tracing.py"},
}


def imports(path: Path) -> set[tuple[str, int]]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {(alias.name, node.lineno) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add((node.module, node.lineno))
    return found


def violations(path: Path, room: str, relative: str) -> list[str]:
    problems = []
    for module, line in imports(path):
        top = module.partition(".")[0]
        if top in ROOMS and top != room and room in ALLOWED_ROOMS and top not in ALLOWED_ROOMS[room]:
            problems.append(f"{relative}:{line}: {room} imports {module}")
        if top == "models" and room == "runtime" and relative != "runtime/backends/torch.py":
            problems.append(f"{relative}:{line}: only the torch backend may import models")
        if top in CONFINED and not any(
            relative == place or (place.endswith("/") and relative.startswith(place)) for place in CONFINED[top]
        ):
            problems.append(f"{relative}:{line}: {top} may be imported only by {sorted(CONFINED[top]) or 'nobody'}")
    return problems


def test_each_room_imports_only_what_it_may() -> None:
    problems: list[str] = []
    for room in sorted(ROOMS - {"tests"}):
        for path in sorted((ROOT / room).rglob("*.py")):
            problems += violations(path, room, path.relative_to(ROOT).as_posix())
    problems += violations(ROOT / "service.py", "service", "service.py") if (ROOT / "service.py").exists() else []
    assert not problems, "\n".join(problems)


def test_a_violation_is_seen(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("import torch\nfrom training.train import main\n")
    assert len(violations(bad, "serving", "serving/bad.py")) == 2


def test_no_room_is_named_like_a_library_it_uses() -> None:
    assert not ROOMS & set(sys.stdlib_module_names)
