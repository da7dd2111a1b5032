"""Who is measured: how each server is started and tuned, and the wire on which it takes one pair."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.environments import environment
from benchmarks.figures import cores
from benchmarks.single_logit import write_single_logit
from runtime.contract import Pair
from runtime.manifest import read_manifest
from runtime.store import ModelStore

BENTOML = str(Path(sys.executable).with_name("bentoml"))
SERVERS = Path("benchmarks/peers")
HOST = "127.0.0.1"
LOOPBACK = ["--host", HOST, "--port"]


@dataclass(frozen=True, slots=True)
class Contestant:
    """One server. `command`: from a port; `ready`: the path that answers 200; `score`: from an answer to its number."""

    name: str
    precision: str
    tuning: str
    command: Callable[[int], list[str]]
    environ: Mapping[str, str]
    ready: str
    path: str
    body: Callable[[Pair], object]
    score: Callable[[Any], float]


def sluice(artifact: Path, name: str, scratch: Path, tuning: str = "defaults", **environ: str) -> Contestant:
    """Ours as `bentoml serve` starts it, with a model store of its own that holds nothing but `artifact`."""
    home = scratch / "homes" / name.replace(" ", "-")
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(artifact, home / "models/matching/v1")
    ModelStore(home).promote("matching:v1")
    return Contestant(
        name,
        read_manifest(artifact).precision,
        tuning,
        # As infra/templates/service.yaml does: clients keep connections longer than the 5 s of the server by default.
        lambda port: [BENTOML, "serve", *LOOPBACK, str(port), "--timeout-keep-alive", "75"],
        # Every contestant does its work and nothing else: no log line a request.
        {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True", "SLUICE_ACCESS_LOG": "false", **environ},
        "/readyz",
        "/v1/match",
        match_body,
        lambda answer: float(answer["results"][0]["score"]),
    )


def match_body(pair: Pair) -> object:
    """One pair on /v1/match."""
    return {"pairs": [{"text_a": pair.text_a, "text_b": pair.text_b}]}


def bentoml_batchable(artifact: Path) -> Contestant:
    """BentoML's own batching over the same artifact."""
    precision = read_manifest(artifact).precision
    return Contestant(
        f"bentoml batchable {precision}",
        precision,
        f"1 worker, a session of {cores()} threads, batches up to 32, max_latency_ms 60000 (less sheds requests)",
        lambda port: [BENTOML, "serve", "benchmarks.peers.bentoml_batchable:Batchable", *LOOPBACK, str(port)],
        {"ARTIFACT": str(artifact.absolute()), "THREADS": str(cores()), "BENTOML_DO_NOT_TRACK": "True"},
        "/readyz",
        "/score",
        lambda pair: {"pairs": [[pair.text_a, pair.text_b]]},
        lambda answer: float(answer[0]),
    )


def torch_peers(checkpoint: Path, scratch: Path) -> Iterator[tuple[str, Callable[[], Contestant]]]:
    """The peers that compute with torch, in environments of their own: making one of them may have to install it."""
    folder = (scratch / "single-logit").absolute()
    write_single_logit(checkpoint, read_manifest(checkpoint).positive_label or 0, folder)
    yield "infinity", lambda: infinity(folder)
    yield "crossencoder fastapi", lambda: crossencoder(folder)
    yield "litserve", lambda: litserve(folder)


def infinity(folder: Path) -> Contestant:
    """infinity's own server, torch engine, /rerank with one document."""
    program = environment("infinity") / "infinity_emb"
    options = ["--model-id", str(folder), "--served-model-name", "matching", "--engine", "torch", "--device", "cpu"]
    options += ["--dtype", "float32", "--batch-size", "32", "--no-bettertransformer", "--lengths-via-tokenize"]
    return Contestant(
        "infinity",
        "fp32",
        "torch engine, batches up to 32 sorted by token count, torch's default threads, no log line a request",
        lambda port: [str(program), "v2", *options, "--log-level", "warning", *LOOPBACK, str(port)],
        {"DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0", "HF_HUB_OFFLINE": "1"},
        "/health",
        "/rerank",
        lambda pair: {"model": "matching", "query": pair.text_a, "documents": [pair.text_b]},
        lambda answer: float(answer["results"][0]["relevance_score"]),
    )


def crossencoder(folder: Path) -> Contestant:
    """sentence-transformers behind FastAPI."""
    program = environment("crossencoder") / "uvicorn"
    command = [str(program), "--app-dir", str(SERVERS), "crossencoder_server:app", "--log-level", "warning"]
    return Contestant(
        "crossencoder fastapi",
        "fp32",
        f"{cores()} uvicorn workers of 1 torch thread, a request at a time each; uvloop and httptools",
        lambda port: [*command, "--workers", str(cores()), *LOOPBACK, str(port)],
        {"CHECKPOINT": str(folder), "THREADS": "1", "HF_HUB_OFFLINE": "1"},
        "/health",
        "/score",
        _named,
        lambda answer: float(answer["score"]),
    )


def litserve(folder: Path) -> Contestant:
    """LitServe with batching."""
    program = environment("litserve") / "python"
    return Contestant(
        "litserve",
        "fp32",
        f"1 worker of {cores()} torch threads, batches up to 32, batch_timeout 5 ms",
        lambda port: [str(program), str(SERVERS / "litserve_server.py"), str(port)],
        {
            "CHECKPOINT": str(folder),
            "THREADS": str(cores()),
            "BATCH": "32",
            "BATCH_TIMEOUT_S": "0.005",
            "HF_HUB_OFFLINE": "1",
        },
        "/health",
        "/predict",
        _named,
        lambda answer: float(answer["score"]),
    )


def _named(pair: Pair) -> object:
    return {"text_a": pair.text_a, "text_b": pair.text_b}
