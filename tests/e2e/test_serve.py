"""`bentoml serve`, the real process, and the clients that people use with it. Models are fake; nothing else is."""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import bentoml
import cohere
import httpx
import huggingface_hub
import numpy as np
import openai
import pytest
from bentoml.exceptions import BentoMLException

from runtime.backends.fake import TALE
from runtime.manifest import read_manifest, write_manifest
from tests.e2e.serving_process import ROOT, Server, metric, publish, serve

pytestmark = pytest.mark.e2e
KEY = "e2e-key"
HEADERS = {"Authorization": f"Bearer {KEY}"}
PAIR = {"pairs": [{"text_a": "a b", "text_b": "B a"}]}


def slow_pairs(*numbers: int) -> dict[str, object]:
    """Different ones: equal pairs in flight are computed once."""
    return {"model": "slow-matching", "pairs": [{"text_a": "a", "text_b": str(number)} for number in numbers]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the module: fast and slow models of both kinds, a key, a small queue."""
    home = tmp_path_factory.mktemp("home")
    publish(home, "matching", "matching")
    publish(home, "slow-matching", "matching", latency_s=0.1)
    publish(home, "embedding", "embedding")
    publish(home, "stories", "generation")
    publish(home, "slow-generation", "generation", latency_s=0.02)
    settings = {
        "SLUICE_MATCHING_MODEL": "matching,slow-matching",
        "SLUICE_GENERATION_MODEL": "stories,slow-generation",
        "SLUICE_QUEUE_ITEMS": "8",
        "SLUICE_BATCH_ITEMS": "1",
        "SLUICE_THREADS": "1",
        "SLUICE_MAX_BODY_BYTES": "100000",
    }
    with serve(home, api_key=KEY, **settings) as running:
        yield running


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers=HEADERS, timeout=30) as client:
        yield client


def eventually(holds: Callable[[], bool], within_s: float = 10) -> None:
    """Wait until `holds`; the server learns of a closed connection a moment later."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.05)


# ---------------------------------------------------------------- the contract over a socket


def test_the_routes_answer(http: httpx.Client) -> None:
    reply = http.post("/v1/match", json=PAIR, headers={"X-Request-ID": "mine"})
    assert reply.json()["results"][0]["match"] is True
    assert reply.headers["x-request-id"] == "mine"
    assert reply.headers["server-timing"].startswith("total;dur=")
    reply = http.post("/v1/rerank", json={"query": "a b", "documents": ["x", "a b"]})
    assert [result["index"] for result in reply.json()["results"]] == [1, 0]
    assert http.get("/v1/models/stories").json()["tag"] == "stories:v1"
    for path in ("/livez", "/readyz", "/metrics", "/docs", "/openapi.json", "/"):
        assert httpx.get(f"{http.base_url}{path}").status_code == 200
    assert httpx.head(f"{http.base_url}/").content == b""


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("GET", "/nope", b"", 404),
        ("GET", "/healthz", b"", 404),
        ("GET", "/docs.json", b"", 404),
        ("GET", "/static_content/index.css", b"", 404),
        ("PUT", "/v1/match", b"{}", 405),
        ("OPTIONS", "/", b"", 405),
        ("POST", "/v1/match", b"{", 400),
        ("POST", "/v1/match", b'{"pairs": [], "x": 1}', 400),
        ("POST", "/v1/match", b'{"pairs": [{"text_a": "\\ud800", "text_b": ""}]}', 400),
        ("POST", "/v1/match", b'{"pairs": [{"text_a": "' + b"a" * 200_000 + b'", "text_b": ""}]}', 413),
    ],
)
def test_whatever_goes_wrong_has_one_body(
    http: httpx.Client, method: str, path: str, content: bytes, status: int
) -> None:
    reply = http.request(method, path, content=content)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert set(error) == {"type", "code", "message", "param", "retryable", "request_id"}
    assert error["request_id"] == reply.headers["x-request-id"]


def test_a_chunked_body_is_limited_too(http: httpx.Client) -> None:
    reply = http.post("/v1/match", content=(b"x" * 50_000 for _ in range(5)))
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "limit_exceeded")
    assert http.post("/v1/match", json=PAIR).status_code == 200


def test_a_key_is_needed(server: Server) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        for path in ("/v1/match", "/bentoml/match"):
            reply = httpx.post(f"{server.url}{path}", json=PAIR, headers=headers)
            assert (reply.status_code, reply.json()["error"]["code"]) == (401, "unauthorized")


def test_tokens_come_one_by_one(http: httpx.Client) -> None:
    body = {"model": "slow-generation", "prompt": "x", "max_tokens": 10, "stream": True}
    arrivals: list[float] = []
    with http.stream("POST", "/v1/completions", json=body) as reply:
        for line in reply.iter_lines():
            arrivals += [time.monotonic()] * line.startswith("data: {")
    gaps = [later - earlier for earlier, later in pairwise(arrivals)]
    # 20 ms a step: if they had been held back, they would have come together.
    assert len(arrivals) == 11
    assert sum(gap > 0.01 for gap in gaps) >= 8


def shape(value: object) -> object:
    """The keys of a JSON value, and the types of its leaves; numbers are one type, null is any."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return None if value is None else "number" if type(value) in (int, float) else type(value).__name__


def fits(documented: object, real: object) -> bool:
    """Whether two shapes agree; a null fits every leaf."""
    if isinstance(documented, dict) and isinstance(real, dict):
        return documented.keys() == real.keys() and all(fits(documented[key], real[key]) for key in real)
    if isinstance(documented, list) and isinstance(real, list):
        return len(documented) == len(real) and all(map(fits, documented, real))
    return documented is None or real is None or documented == real


BLOCKS = re.findall(r"```console\n\$ (curl .*?)\n((?:\{|data: ).*?)\n```", (ROOT / "docs/api.md").read_text(), re.S)


def test_the_documentation_has_examples() -> None:
    assert len(BLOCKS) >= 8


@pytest.mark.parametrize(("command", "answer"), BLOCKS, ids=[str(number) for number in range(len(BLOCKS))])
def test_the_documentation_shows_what_is_answered(server: Server, command: str, answer: str) -> None:
    options = argparse.ArgumentParser()
    options.add_argument("url")
    options.add_argument("-N", action="store_true")
    options.add_argument("-H", dest="header")
    options.add_argument("-d", dest="data")
    asked = options.parse_args(shlex.split(command)[1:])
    headers = HEADERS | dict([asked.header.split(": ")] if asked.header else [])
    url = asked.url.replace("http://127.0.0.1:3000", server.url)
    reply = httpx.request("POST" if asked.data else "GET", url, content=asked.data, headers=headers)
    documented, real = (
        [json.loads(part) for part in text.replace("data: ", "").split("\n") if part.startswith("{")]
        for text in (answer, reply.text)
    )
    assert len(documented) == len(real)
    for expected, got in zip(documented, real, strict=True):
        assert fits(shape(expected), shape(got)), (expected, got)


# ---------------------------------------------------------------- clients


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)


def test_openai_client(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [
        "matching",
        "slow-matching",
        "embedding",
        "stories",
        "slow-generation",
    ]
    whole = client.completions.create(model="stories", prompt="x", max_tokens=20, temperature=0, stop=["no"])
    assert whole.choices[0].text == TALE[1:21]
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 20
    options = {"include_usage": True}
    chunks = list(
        client.completions.create(model="stories", prompt="x", max_tokens=20, stream=True, stream_options=options)  # type: ignore[call-overload]
    )
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == TALE[1:21]
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage.total_tokens == 21


def test_openai_client_understands_our_errors(client: openai.OpenAI, server: Server) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="nope", prompt="x")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="stories", prompt="x", suffix="y")
    assert refused.value.param == "suffix"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0).models.list()
    slow = client.completions.create(
        model="slow-generation",
        prompt="x",
        max_tokens=200,
        stream=True,
        extra_headers={"X-Request-Deadline-Ms": "300"},
    )
    with pytest.raises(openai.APIError, match="deadline"):
        list(slow)


def test_openai_client_embeds(client: openai.OpenAI) -> None:
    texts = ["a b", "b a", "c"]
    default = client.embeddings.create(model="embedding", input=texts)  # asks for base64 and decodes it
    plain = client.embeddings.create(model="embedding", input=texts, encoding_format="float")
    rows = np.array([item.embedding for item in default.data], np.float32)
    assert rows == pytest.approx(np.array([item.embedding for item in plain.data], np.float32))
    assert rows @ rows.T == pytest.approx(np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]]), abs=1e-6)
    assert default.usage.prompt_tokens == 7
    short = client.embeddings.create(model="embedding", input=[list(b"a b")], dimensions=40)
    assert len(short.data[0].embedding) == 40
    with pytest.raises(openai.BadRequestError, match="kind matching"):
        client.embeddings.create(model="matching", input="a")


def test_cohere_clients(server: Server) -> None:
    documents = ["cat dog", "one two"]
    second = cohere.ClientV2(api_key=KEY, base_url=server.url)
    answer = second.rerank(model="matching", query="one two", documents=documents, top_n=1, max_tokens_per_doc=100)
    assert [(result.index, result.relevance_score > 0.9) for result in answer.results] == [(1, True)]
    first = cohere.Client(api_key=KEY, base_url=server.url)
    older = first.rerank(model="embedding", query="one two", documents=documents, return_documents=True)
    assert [result.index for result in older.results] == [1, 0]
    assert older.results[0].document is not None
    assert older.results[0].document.text == "one two"
    with pytest.raises(cohere.NotFoundError):
        second.rerank(model="nope", query="a", documents=["b"])


def test_hugging_face_client(server: Server) -> None:
    client = huggingface_hub.InferenceClient(server.url, token=KEY)
    vectors = client.feature_extraction(["a b", "c"], normalize=False, truncate=True, truncation_direction="left")
    assert vectors.shape == (2, 64)
    assert sorted(vectors[0])[-2:] == [1, 1]
    assert client.feature_extraction("a b").shape == (1, 64)
    assert client.sentence_similarity("a b", ["b a", "c"]) == pytest.approx([1, 0])
    # Its type says text, but it sends on a list of pairs, which is what a cross-encoder classifies.
    classes = client.text_classification([["a b", "b a"]])  # type: ignore[arg-type]
    assert [each.label for each in classes] == ["same", "different"]
    posted = huggingface_hub.InferenceClient(f"{server.url}/embed", token=KEY)
    assert posted.feature_extraction("a b").shape == (1, 64)
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match="300 tokens") as refused:
        client.feature_extraction("a" * 300, truncate=False)
    assert refused.value.response.status_code == 422


def test_bentoml_client(server: Server) -> None:
    with bentoml.SyncHTTPClient(server.url, token=KEY) as client:
        answer = client.match(pairs=PAIR["pairs"], threshold=0.5)
        assert answer["results"][0]["match"] is True
        answer = client.rerank(query="a b", documents=["x", "a b"], top_n=1)
        assert [result["index"] for result in answer["results"]] == [1]
        answer = client.embed(texts=["a b", "b a"], dimensions=40)
        assert answer["data"][0]["embedding"] == pytest.approx(answer["data"][1]["embedding"])
        assert len(answer["data"][0]["embedding"]) == 40
        settings = {"min_p": 0.1, "presence_penalty": 0.5, "repetition_penalty": 1.1, "min_tokens": 2, "seed": 1}
        assert "".join(client.generate(prompt="x", max_tokens=20, **settings)) == TALE[1:21]
        with pytest.raises(BentoMLException, match="model 'nope'") as missing:
            client.match(pairs=PAIR["pairs"], model="nope")
        assert missing.value.error_code == 404


# ---------------------------------------------------------------- too much, too late, gone


def test_a_flood_is_shed_with_retry_after_and_leaves_no_trace(http: httpx.Client) -> None:
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        replies = list(pool.map(lambda number: http.post("/v1/match", json=slow_pairs(number)), range(48)))
    statuses = {reply.status_code for reply in replies}
    assert statuses == {200, 429}
    for reply in replies:
        if reply.status_code == 429:
            assert int(reply.headers["retry-after"]) >= 1
            assert reply.json()["error"]["retryable"] is True
    assert http.post("/v1/match", json=PAIR).status_code == 200


def running(http: httpx.Client) -> float:
    return metric(http.get("/metrics").text, 'sluice_running_items{model="slow-generation"}')


def cancelled(http: httpx.Client) -> float:
    return metric(http.get("/metrics").text, 'sluice_cancelled_total{model="slow-generation",stage="running"}')


@pytest.mark.parametrize("stream", [True, False])
def test_a_closed_connection_frees_the_slot(server: Server, http: httpx.Client, stream: bool) -> None:
    before = cancelled(http)
    body = json.dumps({"model": "slow-generation", "prompt": "x", "max_tokens": 250, "stream": stream}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        eventually(lambda: running(http) == 1)
    # The whole text would take 5 s.
    eventually(lambda: running(http) == 0 and cancelled(http) == before + 1, within_s=3)


def test_a_killed_client_frees_the_slot(server: Server, http: httpx.Client) -> None:
    before = cancelled(http)
    code = (
        "import openai, sys\n"
        f"client = openai.OpenAI(base_url='{server.url}/v1', api_key='{KEY}')\n"
        "for _ in client.completions.create(model='slow-generation', prompt='x', max_tokens=250, stream=True):\n"
        "    print(flush=True)\n"
    )
    client = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert client.stdout is not None
    client.stdout.readline()
    client.send_signal(signal.SIGKILL)
    client.wait()
    eventually(lambda: running(http) == 0 and cancelled(http) == before + 1, within_s=3)


def test_a_bentoml_client_that_leaves_ends_its_work(server: Server, http: httpx.Client) -> None:
    with (
        httpx.Client(base_url=server.url, headers=HEADERS) as leaving,
        pytest.raises(httpx.ReadTimeout),
    ):
        leaving.post("/bentoml/match", json=slow_pairs(*range(8)), timeout=0.2)
    name = 'sluice_requests_total{model="slow-matching",route="/bentoml/match",status="499"}'
    eventually(lambda: metric(http.get("/metrics").text, name) == 1, within_s=3)
    dropped = 'sluice_cancelled_total{model="slow-matching",stage="queued"}'
    eventually(lambda: metric(http.get("/metrics").text, dropped) == 1, within_s=3)
    logged = [json.loads(line) for line in server.output().splitlines() if '"/bentoml/match"' in line]
    (left,) = [line for line in logged if line["status"] == 499]
    assert (left["items"], left["stage"]) == (8, "queued")
    assert left["queue_ms"] + left["compute_ms"] <= left["total_ms"] + 0.05  # of rounding


# ---------------------------------------------------------------- what the process is


def test_neither_torch_nor_transformers_is_in_the_process(server: Server) -> None:
    workers = server.workers()
    assert workers
    for process in workers:
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        assert "tokenizers" in maps  # the check looks at the right process
        for library in ("libtorch", "/torch/", "/transformers/", "/onnx/"):
            assert library not in maps
    code = "import service, sys; print({'torch', 'transformers', 'onnx', 'training', 'models'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_log_has_a_json_line_a_request(server: Server, http: httpx.Client) -> None:
    http.post("/v1/match", json=PAIR, headers={"X-Request-ID": "look-for-me"})
    eventually(lambda: "look-for-me" in server.output())
    (line,) = [json.loads(text) for text in server.output().splitlines() if '"look-for-me"' in text]
    assert (line["route"], line["status"], line["model"]) == ("/v1/match", 200, "matching:v1")
    assert KEY not in server.output()


def test_a_store_without_models_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="exit code 1") as refused, serve(tmp_path):
        pass
    assert "make demo" in str(refused.value)
    assert "Traceback" not in str(refused.value)


def test_a_gpu_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    """A suite that runs without a GPU can see this: what is not there is refused, before a worker starts."""
    publish(tmp_path, "matching", "matching")
    artifact = tmp_path / "models/matching/v1"
    fields = read_manifest(artifact).model_dump(exclude={"files"})
    (artifact / "model.onnx").write_bytes(b"")
    write_manifest(artifact, **(fields | {"format": "onnx", "graph": "model.onnx", "precision": "fp16"}))
    with (
        pytest.raises(RuntimeError, match="exit code 1") as refused,
        serve(tmp_path, SLUICE_DEVICE="cuda", SLUICE_WORKERS="2"),
    ):
        pass
    assert "SLUICE_DEVICE is 'cuda', for 2 worker(s): cuda:0 was asked for, but ONNX Runtime" in str(refused.value)
    assert "CUDAExecutionProvider" in str(refused.value)
    assert "onnxruntime-gpu" in str(refused.value)
    assert "Traceback" not in str(refused.value)


def test_a_damaged_artifact_stops_the_start(tmp_path: Path) -> None:
    publish(tmp_path, "matching", "matching")
    (tmp_path / "models/matching/v1/fake.json").write_text("{}")
    with pytest.raises(RuntimeError, match=r"altered: fake\.json") as refused, serve(tmp_path):
        pass
    assert "exit code 1" in str(refused.value)
