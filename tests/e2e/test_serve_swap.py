"""Promote and rollback under load: a real server with two workers, real commands, clients that never stop. No request
may fail, and nothing of the old models may stay."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from runtime.backends.fake import TALE, VOCABULARY, byte_tokenizer
from runtime.manifest import write_manifest
from runtime.store import ModelStore
from tests.e2e.serving_process import ROOT, Server, environment, metric, publish, serve

pytestmark = pytest.mark.e2e
# Every second client's text is tokenised in a thread: a swap may come between the look-up of its model and its queue.
TEXTS = ("a b", "a b " * 25_000)
WORKERS = 2
WEIGHTS_MB = 40  # glibc keeps pieces below 32 MB for the next one; larger ones go back at once
ENGINE_THREADS = 4
ROUNDS = 6  # more swaps, whose memory and threads are looked at
WITHIN_S = 30


def write_heavy_model(directory: Path, label: str) -> None:
    """A matching model for ONNX Runtime with weights that would be missed, and a label that says which one it is."""
    directory.mkdir(parents=True)
    random, wide = np.random.default_rng(0), WEIGHTS_MB * 2**20 // (64 * 4)
    weights = {
        "embeddings": random.normal(size=(VOCABULARY, 64)),
        "up": random.normal(size=(64, wide)) / 64,
        "down": random.normal(size=(wide, 2)) / wide,
    }
    nodes = [
        helper.make_node("Gather", ["embeddings", "input_ids"], ["embedded"]),
        helper.make_node("ReduceMean", ["embedded"], ["pooled"], axes=[1], keepdims=0),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["mask"], ["one"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["pooled", "one"], ["masked"]),
        helper.make_node("MatMul", ["masked", "up"], ["wide"]),
        helper.make_node("MatMul", ["wide", "down"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "heavy",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "T"])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 2])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(directory / "model.onnx"))
    byte_tokenizer(pairs=True).save(str(directory / "tokenizer.json"))
    write_manifest(
        directory,
        kind="matching",
        format="onnx",
        architecture="heavy",
        precision="fp32",
        max_tokens=64,
        graph="model.onnx",
        labels=(label, label),
        positive_label=1,
    )


def command(home: Path, *arguments: str) -> str:
    """`python -m training models …`, as a person types it."""
    done = subprocess.run(
        [sys.executable, "-m", "training", "models", *arguments],
        cwd=ROOT,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class Load:
    """Clients that send one request after the other, each on a connection of its own, and note every answer."""

    def __init__(self, server: Server, clients: int) -> None:
        self._url = server.url
        self._stop = threading.Event()
        self.labels: list[list[str]] = [[] for _ in range(clients)]
        self.failures: list[str] = []
        targets = [self._match] * clients + [self._probe]
        self._threads = [threading.Thread(target=run, args=(number,)) for number, run in enumerate(targets)]

    def _match(self, number: int) -> None:
        body = {"pairs": [{"text_a": TEXTS[number % 2], "text_b": "B a"}]}
        with httpx.Client(base_url=self._url, timeout=WITHIN_S) as http:
            while not self._stop.is_set():
                try:
                    reply = http.post("/v1/match", json=body)
                    if reply.status_code == 200:
                        self.labels[number].append(reply.json()["results"][0]["label"])
                    else:
                        self.failures.append(f"{reply.status_code} {reply.text}")
                except httpx.TransportError as error:
                    self.failures.append(repr(error))
                time.sleep(0.002)

    def _probe(self, number: int) -> None:
        with httpx.Client(base_url=self._url, timeout=WITHIN_S) as http:
            while not self._stop.wait(0.05):
                if (reply := http.get("/readyz")).status_code != 200:
                    self.failures.append(f"/readyz {reply.status_code}")

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(WITHIN_S)

    def orders(self) -> list[list[str]]:
        """For each client, the labels in the order in which they changed."""
        return [[label for label, _ in itertools.groupby(labels)] for labels in self.labels]


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {WITHIN_S} s: {what}"
        time.sleep(0.05)


def swaps(server: Server, model: str, outcome: str = "switched") -> float:
    """Of all workers."""
    text = httpx.get(f"{server.url}/metrics", timeout=WITHIN_S).text
    return metric(text, f'sluice_swaps_total{{model="{model}",outcome="{outcome}"}}')


def footprint(server: Server) -> tuple[int, float]:
    """Threads, and MB that are private to the workers."""
    workers = [psutil.Process(worker.pid) for worker in server.workers()]
    return sum(each.num_threads() for each in workers), sum(each.memory_full_info().uss for each in workers) / 2**20


def stream(server: Server, body: dict[str, Any], lines: list[str]) -> None:
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=WITHIN_S) as reply:
        for line in reply.iter_lines():
            if line:
                lines.append(line)  # noqa: PERF401  # the test watches it grow


def test_promotions_and_rollbacks_under_load(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    for version in ("v1", "v2"):
        write_heavy_model(tmp_path / "models/matching" / version, f"label of {version}")
    store.promote("matching:v1")
    publish(tmp_path, "generation", "generation", "v2", latency_s=0.02)
    publish(tmp_path, "generation", "generation", "v1", latency_s=0.02)
    settings = {
        "BENTOML_CONFIG_OPTIONS": f"services.Sluice.workers={WORKERS}",
        "SLUICE_FOLLOW_S": "0.1",
        "SLUICE_THREADS": str(ENGINE_THREADS),
        "SLUICE_ACCESS_LOG": "false",
    }
    with serve(tmp_path, **settings) as server:
        load = Load(server, clients=4)
        done = 0

        def followed(version: str) -> None:
            nonlocal done
            done += WORKERS
            until(lambda: swaps(server, "matching") == done, f"{done} switches of matching")
            label = f"label of {version}"
            until(lambda: all(labels[-1] == label for labels in load.labels), f"every client has had {version}")

        with load.running():
            # A stream that takes longer than the swap of its model.
            lines: list[str] = []
            body = {"prompt": "x", "max_tokens": 250, "temperature": 0, "stream": True}
            reader = threading.Thread(target=stream, args=(server, body, lines))
            reader.start()
            until(lambda: bool(metric(httpx.get(f"{server.url}/metrics").text, RUNNING)), "the stream runs")
            store.promote("generation:v2")
            until(lambda: swaps(server, "generation") == WORKERS, "generation is switched")
            assert reader.is_alive()

            assert "SLUICE_FOLLOW_S" in command(tmp_path, "promote", "matching:v2")
            followed("v2")
            cards = {card["id"]: card for card in httpx.get(f"{server.url}/v1/models").json()["data"]}
            assert {id: (card["tag"], card["stage"], card["pending"]) for id, card in cards.items()} == {
                "matching": ("matching:v2", "production", None),
                "generation": ("generation:v2", "production", None),
            }
            command(tmp_path, "rollback", "matching")
            followed("v1")

            reader.join(WITHIN_S)
            assert lines[-1] == "data: [DONE]"
            text = "".join(json.loads(line.removeprefix("data: "))["choices"][0]["text"] for line in lines[:-1])
            assert text == (TALE * 10)[1:251]

            for version in ("v2", "v1"):  # the allocator has its pieces, a lone caller's session is made
                store.promote(f"matching:{version}")
                followed(version)
            threads, memory_mb = footprint(server)
            for version in itertools.islice(itertools.cycle(("v2", "v1")), ROUNDS):
                store.promote(f"matching:{version}")
                followed(version)
            until(lambda: footprint(server)[0] < threads + ENGINE_THREADS, "the old engines' threads end")
            grown_mb = footprint(server)[1] - memory_mb
            # Kept, the old models would be ROUNDS x WORKERS x WEIGHTS_MB, twice where a caller was alone.
            assert grown_mb < ROUNDS * WORKERS * 2 * WEIGHTS_MB / 3, f"{grown_mb:.0f} MB more"
        assert not load.failures
        expected = ["label of v1", "label of v2"] * (2 + ROUNDS // 2) + ["label of v1"]
        assert load.orders() == [expected] * 4
        assert "Traceback" not in server.output()


RUNNING = 'sluice_running_items{model="generation"}'

# Moves matching from one version to the other and back without end.
RESTLESS = """
import itertools, pathlib, sys
from runtime.store import ModelStore
store = ModelStore(pathlib.Path(sys.argv[1]))
for version in itertools.cycle(("v2", "v1")):
    store.promote(f"matching:{version}")
"""


def test_a_killed_promotion_and_a_broken_version_harm_nobody(tmp_path: Path) -> None:
    for version in ("v3", "v2", "v1"):
        publish(tmp_path, "matching", "matching", version)
    (tmp_path / "models/matching/v3/fake.json").write_text("{}")
    store = ModelStore(tmp_path)
    with serve(tmp_path, SLUICE_FOLLOW_S="0.05", SLUICE_ACCESS_LOG="false") as server:
        load = Load(server, clients=2)
        with load.running():
            for _ in range(3):
                mover = subprocess.Popen([sys.executable, "-c", RESTLESS, str(tmp_path)], cwd=ROOT)
                time.sleep(1.0)
                os.kill(mover.pid, signal.SIGKILL)
                assert mover.wait() == -signal.SIGKILL
            store.promote("matching:v2")
            url = f"{server.url}/v1/models/matching"
            until(lambda: httpx.get(url).json()["tag"] == "matching:v2", "the last promotion holds")

            command(tmp_path, "promote", "matching:v3")
            until(lambda: swaps(server, "matching", "refused") == 1, "v3 is refused")
            card = httpx.get(url).json()
            assert (card["tag"], card["stage"], card["pending"]) == ("matching:v2", "previous", None)
            command(tmp_path, "rollback", "matching")
            until(lambda: httpx.get(url).json()["stage"] == "production", "v2 is back")
            assert swaps(server, "matching", "refused") == 1
        assert not load.failures
        assert "altered: fake.json" in server.output()


def test_sigterm_during_a_swap_drains(tmp_path: Path) -> None:
    publish(tmp_path, "matching", "matching", "v2", latency_s=0.5)  # its warm-up takes a while
    publish(tmp_path, "matching", "matching", "v1")
    publish(tmp_path, "generation", "generation", latency_s=0.02)
    with serve(tmp_path, SLUICE_FOLLOW_S="0.05") as server:
        lines: list[str] = []
        body = {"prompt": "x", "max_tokens": 250, "stream": True}
        reader = threading.Thread(target=stream, args=(server, body, lines))
        reader.start()
        until(lambda: bool(lines), "the stream runs")
        ModelStore(tmp_path).promote("matching:v2")
        url = f"{server.url}/v1/models/matching"
        until(lambda: httpx.get(url).json()["pending"] == "matching:v2", "v2 is being loaded")
        server.process.send_signal(signal.SIGTERM)
        reader.join(WITHIN_S)
        assert lines[-1] == "data: [DONE]"
        assert server.process.wait(WITHIN_S) == 0
        assert "Traceback" not in server.output()
