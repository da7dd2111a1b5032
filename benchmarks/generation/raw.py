"""`python -m benchmarks.generation.raw ARTIFACT PORT`: the raw loop R of an artifact.

Each prompt is prefilled, then one decode step follows another over all of them, the likeliest token each. No queue, no
sampler, no text; its time has no HTTP in it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from benchmarks.peers.raw_server import serve
from runtime.backends.onnx import OnnxGeneration
from runtime.contract import GenerationBackend
from runtime.errors import ArtifactRefused
from runtime.manifest import read_manifest

ROWS = 8


def open_backend(artifact: Path, slots: int = ROWS) -> GenerationBackend:
    """The backend that serves, alone, on all cores. Raises ArtifactRefused: not a generation artifact of ours."""
    manifest = read_manifest(artifact)
    if manifest.causal is None or manifest.graph is None:
        raise ArtifactRefused(f"{artifact} has no graph of a causal model.")
    threads = len(os.sched_getaffinity(0))
    graph = artifact / manifest.graph
    return OnnxGeneration(graph, manifest.causal, slots=slots, context=manifest.max_tokens, threads=threads)


def generate(backend: GenerationBackend, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """Greedy, every sequence to the same number of tokens."""
    first = [int(backend.prefill(slot, prompt)[0].argmax()) for slot, prompt in enumerate(prompts)]
    lengths = np.asarray([len(prompt) for prompt in prompts], np.int64)
    made = [np.asarray(first, np.int64)]
    while len(made) < tokens:
        made.append(backend.decode(made[-1], lengths).argmax(axis=1).astype(np.int64))
        lengths += 1
    return np.stack(made, axis=1).tolist()  # type: ignore[no-any-return]


def main(arguments: list[str]) -> int:
    """Serves until it is ended."""
    backend = open_backend(Path(arguments[0]))
    serve(int(arguments[1]), lambda prompts, tokens: generate(backend, prompts, tokens))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
