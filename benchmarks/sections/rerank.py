"""Rerank, 1 query with 32 documents, 8 clients: documents/s beside the raw limit of those very pairs."""

from __future__ import annotations

from benchmarks.arena import Arena
from benchmarks.bench import Bench, say
from benchmarks.contestants import HOST, sluice
from benchmarks.figures import Result, cores, figure
from benchmarks.raw import Raw, WholeSession
from benchmarks.sections.peers import loop_figures
from benchmarks.texts import queries, spaced, write_bodies
from benchmarks.wrk import WARM_S, closed_loop
from runtime.backends.onnx import OnnxEncoder
from runtime.contract import Pair
from runtime.manifest import read_manifest

DOCUMENTS = 32
CLIENTS = 8
RAW_QUERIES = 30
# A request is 32 pairs, so a window has few of them.
LONGER = 2


def estimate_s(bench: Bench) -> float:
    """One server; a window and two raw runs a round."""
    return 10 + bench.rounds * (LONGER * bench.seconds + WARM_S + 6)


def measure(bench: Bench) -> Result:
    """Documents/s and the two raw forms, round by round."""
    asked = queries(bench.pairs, DOCUMENTS)
    bodies = write_bodies(
        bench.scratch / "rerank.jsonl", asked, lambda each: {"query": each[0], "documents": each[1], "top_n": 3}
    )
    pairs = [Pair(query, document) for query, documents in asked[:RAW_QUERIES] for document in documents]
    graph = bench.artifact / (read_manifest(bench.artifact).graph or "")
    raws = [
        Raw(bench.artifact, OnnxEncoder(graph), pairs, cores()),
        Raw(bench.artifact, WholeSession(graph, cores()), pairs, 1),
    ]
    limits, loops = [], []
    with Arena() as arena:
        running = arena.start(sluice(bench.artifact, "sluice rerank", bench.scratch))
        for number in range(bench.rounds):
            limits.append([raw.pairs_per_s() for raw in raws])
            with arena.driving(running, spaced(bench.pairs, 16)):
                url = f"http://{HOST}:{running.port}/v1/rerank"
                first = sum(loop.requests for loop in loops)
                loops.append(closed_loop(url, bodies, CLIENTS, LONGER * bench.seconds, first))
            say(f"rerank: round {number + 1} of {bench.rounds} done")
    return {
        "what": f"1 query with {DOCUMENTS} documents, {CLIENTS} clients",
        "documents_per_s": figure([DOCUMENTS * loop.answers_per_s for loop in loops]),
        "request": loop_figures(loops),
        "raw": {"streams": figure([each[0] for each in limits]), "session": figure([each[1] for each in limits])},
        "limit": figure([max(each) for each in limits]),
        "failures": sum(loop.failures for loop in loops),
    }
