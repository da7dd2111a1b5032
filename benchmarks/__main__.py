"""`python -m benchmarks`: single-pair match requests over HTTP at 1, 16 and 64 clients, beside the raw in-process limit
of the same artifact and beside fp32 torch. Rounds are interleaved, medians with spread, written to a file that
describes itself. The machine is whatever it is: read the ratios.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.raw import Raw, cores
from benchmarks.table import bench_table
from demo.commands import StepFailed, free_port, server
from demo.table import cpu_name
from runtime.backends.onnx import OnnxEncoder
from runtime.backends.torch import TorchMatching
from runtime.contract import Pair
from runtime.errors import SluiceError
from runtime.store import ModelStore, store_home

CLIENTS = (1, 16, 64)
SAMPLE = Path("training/samples/banking77-pairs/test.jsonl")
VERSIONS = ("bentoml", "onnxruntime", "torch", "tokenizers", "uvicorn", "uvloop")


def serve_row(url: str, bodies: bytes, clients: int, seconds: float, offset: int) -> dict[str, Any]:
    """Drive the server from a process of its own, so that the driver's interpreter is not the server's neighbour."""
    command = [sys.executable, "-m", "benchmarks.driver", f"{url}/v1/match"]
    command += ["--clients", str(clients), "--seconds", str(seconds), "--offset", str(offset)]
    done = subprocess.run(command, input=bodies, capture_output=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and greatest of the rounds."""
    return {
        "median": round(statistics.median(values), 2),
        "min": round(min(values), 2),
        "max": round(max(values), 2),
        "rounds": len(values),
    }


def measure(options: argparse.Namespace, url: str, raws: dict[str, Raw], pairs: list[Pair]) -> dict[str, Any]:
    """All rounds; figure name -> spread."""
    bodies = b"\n".join(
        json.dumps({"pairs": [{"text_a": pair.text_a, "text_b": pair.text_b}]}).encode() for pair in pairs
    )
    figures: dict[str, list[float]] = {}
    failures = offset = 0

    def record(name: str, value: float) -> None:
        figures.setdefault(name, []).append(value)

    for round_number in range(options.rounds):
        for name, raw in raws.items():
            record(f"{name} pairs/s", raw.pairs_per_s())
            record(f"{name} p50 ms", raw.p50_ms())
        for clients in CLIENTS:
            row = serve_row(url, bodies, clients, options.seconds, offset)
            offset += row["requests"]
            failures += row["failures"]
            record(f"served, {clients} clients pairs/s", row["requests_per_s"])
            record(f"served, {clients} clients p50 ms", row["p50_ms"])
            record(f"served, {clients} clients p99 ms", row["p99_ms"])
        print(f"round {round_number + 1} of {options.rounds} done", file=sys.stderr, flush=True)
    return {"figures": {name: spread(values) for name, values in figures.items()}, "failures": failures}


def report(measured: dict[str, Any], tag: str, options: argparse.Namespace) -> dict[str, Any]:
    """The measured figures with everything that is needed to read them."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True).stdout.strip()

    return {
        "schema_version": 1,
        "command": f"python -m benchmarks --rounds {options.rounds} --seconds {options.seconds}",
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else ""),
        "machine": {"cpu": cpu_name(), "cores": cores(), "python": platform.python_version()},
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        "model": tag,
        "texts": f"{SAMPLE}, single-pair requests, every request another pair until all were used",
        **measured,
    }


def main(arguments: list[str]) -> int:
    """Exit codes: 0 measured, 1 something that is needed is missing or requests failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each served row in each round")
    parser.add_argument("--checkpoint", type=Path, default=Path("runs/matching/checkpoint"), help="for the torch row")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/match.json"))
    options = parser.parse_args(arguments)
    try:
        entry = ModelStore(store_home(os.environ)).resolve("matching:production", "matching")
        rows = [json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines()]
        pairs = [Pair(row["text_a"], row["text_b"]) for row in rows]
        # One thread a batch, as many batches as cores; torch parallelises inside a batch by itself.
        raws = {"raw int8": Raw(entry.path, OnnxEncoder(entry.path / (entry.manifest.graph or "")), pairs, cores())}
        if options.checkpoint.is_dir():
            raws["raw fp32 torch"] = Raw(options.checkpoint, TorchMatching(options.checkpoint), pairs, 1)
        else:
            print(f"no {options.checkpoint}: the torch row is left out (`make demo` trains it)", file=sys.stderr)
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [str(Path(sys.executable).with_name("bentoml")), "serve", "--host", "127.0.0.1", "--port", str(port)]
        # Both sides of the comparison do their work and nothing else: no log line a request.
        quiet = {"SLUICE_ACCESS_LOG": "false"}
        with server(command, f"{url}/readyz", Path("reports/bench-serve.log"), environ=quiet):
            result = report(measure(options, url, raws, pairs), entry.tag, options)
    except (StepFailed, SluiceError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(bench_table(result))
    print(f"\n{result['failures']} failed requests. Written to {options.out}")
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
