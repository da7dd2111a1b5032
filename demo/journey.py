"""The demo's second half: serve the published models, call them, load-test them, run a batch over S3."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

from demo.commands import StepFailed, free_port, run, server
from demo.models import LOGS
from demo.table import Row

SAMPLE = Path("training/samples/banking77-pairs/test.jsonl")
BATCH_ROWS = 400
# Of the intents that the bundled sample has: the demo's model has seen no others.
QUERY = "My top up did not go through, why?"
DOCUMENTS = (
    "How do I activate my new card?",
    "Why was my top-up rejected?",
    "What exchange rate do you use?",
    "I asked for a refund and it is not there yet.",
)
# moto accepts any credentials; boto3 insists on some.
LOCAL_S3 = {"AWS_ACCESS_KEY_ID": "demo", "AWS_SECRET_ACCESS_KEY": "demo", "AWS_DEFAULT_REGION": "us-east-1"}


def serve_call_and_load() -> Iterator[Row]:
    """Start `bentoml serve`, call its routes, load-test it, stop it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    bentoml = str(Path(sys.executable).with_name("bentoml"))
    begun = monotonic()
    command = [bentoml, "serve", "--host", "127.0.0.1", "--port", str(port)]
    print(f"  $ {' '.join(['bentoml', *command[1:]])}", flush=True)
    with server(command, f"{url}/readyz", LOGS / "serve.log"):
        yield Row("bentoml serve", "ready", monotonic() - begun, url)
        yield from call(url)
        yield _load(url)


def call(url: str) -> Iterator[Row]:
    """One request a kind of route, to a server that serves the demo's models. Raises StepFailed."""
    begun = monotonic()
    pairs = [{"text_a": QUERY, "text_b": document} for document in DOCUMENTS[:2]]
    results = _post(url, "/v1/match", {"pairs": pairs})["results"]
    scores = ", ".join(f"{result['score']:.2f}" for result in results)
    yield Row("POST /v1/match", f"scores {scores}", monotonic() - begun, f"{url}/v1/match")

    begun = monotonic()
    body = {"query": QUERY, "documents": DOCUMENTS}
    ranked = _post(url, "/v1/rerank", body)["results"]
    order = " > ".join(str(result["index"]) for result in ranked)
    yield Row("POST /v1/rerank", f"documents {order}", monotonic() - begun, f"{url}/v1/rerank")

    begun = monotonic()
    vectors = [item["embedding"] for item in _post(url, "/v1/embeddings", {"input": [QUERY, *DOCUMENTS[:2]]})["data"]]
    # Vectors have length 1, so the cosine of two is their product.
    cosines = ", ".join(f"{sum(a * b for a, b in zip(vectors[0], other, strict=True)):.2f}" for other in vectors[1:])
    result = f"{len(vectors[0])} dimensions, cosines {cosines}"
    yield Row("POST /v1/embeddings", result, monotonic() - begun, f"{url}/v1/embeddings")

    begun = monotonic()
    tokens, text, first_s = 0, "", 0.0
    for chunk in _stream(url, {"prompt": "ROMEO:", "max_tokens": 48, "temperature": 0.8, "seed": 7}):
        if not first_s:
            print("    ", end="")
        first_s = first_s or monotonic() - begun
        piece = chunk["choices"][0]["text"] if chunk["choices"] else ""
        print(piece.replace("\n", "\n    "), end="", flush=True)
        text += piece
        tokens += 1
    print(flush=True)
    if not text.strip():
        raise StepFailed(f"{url}/v1/completions streamed no text.")
    result = f"{tokens} events, first after {first_s * 1000:.0f} ms"
    yield Row("POST /v1/completions (stream)", result, monotonic() - begun, f"{url}/v1/completions")


def _load(url: str) -> Row:
    begun = monotonic()
    reports = LOGS / "loadtest"
    arguments = ["--host", url, "--duration", "20", "--users", "match=8,completion=2", "--out", str(reports)]
    run("loadtests", "run", *arguments, "--slo", "loadtests/slos/demo.yaml", log=LOGS / "loadtest.log")
    result = json.loads(next(reports.glob("*.json")).read_text(encoding="utf-8"))
    return Row("load test", f"verdict {result['verdict']}", monotonic() - begun, str(reports))


def batch_over_s3() -> Iterator[Row]:
    """A local S3 (moto), a bucket with pairs, a job, a bucket with predictions."""
    import boto3

    begun = monotonic()
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    environ = {**LOCAL_S3, "AWS_ENDPOINT_URL": endpoint}
    moto = str(Path(sys.executable).with_name("moto_server"))
    with server([moto, "-H", "127.0.0.1", "-p", str(port)], f"{endpoint}/moto-api/", LOGS / "moto.log"):
        s3 = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=LOCAL_S3["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=LOCAL_S3["AWS_SECRET_ACCESS_KEY"],
            region_name=LOCAL_S3["AWS_DEFAULT_REGION"],
        )
        for bucket in ("sluice-in", "sluice-out"):
            s3.create_bucket(Bucket=bucket)
        lines = SAMPLE.read_text(encoding="utf-8").splitlines()[:BATCH_ROWS]
        s3.put_object(Bucket="sluice-in", Key="pairs/part-0.jsonl", Body="\n".join(lines[::2]).encode() + b"\n")
        s3.put_object(Bucket="sluice-in", Key="pairs/part-1.jsonl", Body="\n".join(lines[1::2]).encode() + b"\n")
        run("batch", "run", "batch/jobs/demo.yaml", log=LOGS / "batch.log", environ=environ)
        success = json.loads(s3.get_object(Bucket="sluice-out", Key="predictions/_SUCCESS")["Body"].read())
        target = LOGS / "batch"
        target.mkdir(parents=True, exist_ok=True)
        for item in s3.list_objects_v2(Bucket="sluice-out", Prefix="predictions/")["Contents"]:
            path = target / item["Key"].removeprefix("predictions/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(s3.get_object(Bucket="sluice-out", Key=item["Key"])["Body"].read())
    counts = ", ".join(f"{key} {value}" for key, value in success.items() if key.startswith("rows"))
    yield Row("batch s3://sluice-in -> s3://sluice-out", counts, monotonic() - begun, str(target))


def _post(url: str, route: str, body: dict[str, Any]) -> dict[str, Any]:
    print(f"  $ curl {url}{route} -d '{json.dumps(body)}'", flush=True)
    request = urllib.request.Request(url + route, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        answer: dict[str, Any] = json.load(response)
    print(f"    {json.dumps(answer)[:400]}", flush=True)
    return answer


def _stream(url: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    body = {**body, "stream": True}
    print(f"  $ curl -N {url}/v1/completions -d '{json.dumps(body)}'", flush=True)
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/v1/completions", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        for line in response:
            text = line.decode().strip()
            if text == "data: [DONE]":
                return
            if text.startswith("data: "):
                yield json.loads(text.removeprefix("data: "))
    raise StepFailed(f"the stream of {url}/v1/completions ended without [DONE].")
