"""Figures with their spread, and result files that describe themselves."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from demo.table import cpu_name
from runtime.manifest import library_version

RESULTS = Path("benchmarks/results")
PEERS_PLOT, DECODE_PLOT = "peers.png", "decode.png"
VERSIONS = ("bentoml", "onnxruntime", "torch", "tokenizers", "transformers", "uvicorn", "uvloop")
Result = dict[str, Any]


def figure(rounds: Sequence[float]) -> dict[str, Any]:
    """Median, least and greatest of the rounds, and the rounds themselves in the order in which they were measured."""
    return {
        "median": round(statistics.median(rounds), 3),
        "min": round(min(rounds), 3),
        "max": round(max(rounds), 3),
        "rounds": [round(value, 3) for value in rounds],
    }


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def write_result(section: str, command: str, measured: Result, directory: Path) -> Path:
    """One section's figures with all that is needed to read them."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True).stdout.strip()

    result = {
        "schema_version": 2,
        "section": section,
        "command": command,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else ""),
        "machine": {"cpu": cpu_name(), "cores": cores(), "python": platform.python_version()},
        "versions": {name: library_version(name) for name in VERSIONS},
        **measured,
    }
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{section}.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def read_results(directory: Path, sections: Sequence[str]) -> dict[str, Result]:
    """The sections that have been measured."""
    paths = {section: directory / f"{section}.json" for section in sections}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.is_file()}


def machine(result: Result) -> str:
    """The machine of a result, in words."""
    its = result["machine"]
    return f"{its['cores']} cores of {its['cpu']}, Python {its['python']}"
