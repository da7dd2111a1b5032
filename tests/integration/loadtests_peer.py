"""The server that the load generator's tests drive: it speaks the HTTP contract and misbehaves as it is told.

Started as a process of its own (`python tests/integration/loadtests_peer.py '{"match": {"delay_s": 0.01}}'`); it binds
a free port of the loopback, prints it, and keeps what it was sent, and when it sent what, under GET /log.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

SPEC: dict[str, Any] = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
MODELS = [
    {"id": "older", "object": "model", "kind": "matching", "precision": "fp32", "stage": None},
    {"id": "matching", "object": "model", "kind": "matching", "precision": "int8", "stage": "production"},
    {"id": "generation", "object": "model", "kind": "generation", "precision": "int8", "stage": "production"},
]
seen: list[dict[str, Any]] = []
streams: list[dict[str, Any]] = []
counts: Counter[str] = Counter()


def error(status: int, code: str, headers: dict[str, str] | None = None) -> Response:
    body = {"error": {"type": code, "code": code, "message": f"told to answer {status}", "param": None}}
    return JSONResponse(body, status, headers)


async def refuse(request: Request, name: str) -> Response | None:
    """Keep the request; answer it here when the spec says that every n-th one fails, or that a key is missing."""
    body = json.loads(await request.body())
    seen.append({"path": request.url.path, "id": request.headers["x-request-id"], "body": body})
    counts[name] += 1
    if SPEC.get("key") and request.headers.get("authorization") != f"Bearer {SPEC['key']}":
        return error(401, "missing_key")
    for rule in SPEC.get(name, {}).get("fail", []):
        if counts[name] % rule["every"] == 0:
            headers = {"Retry-After": rule["retry_after"]} if "retry_after" in rule else None
            return error(rule["status"], rule.get("code", "told_to"), headers)
    return None


async def match(request: Request) -> Response:
    if refusal := await refuse(request, "match"):
        return refusal
    spec, pairs = SPEC.get("match", {}), seen[-1]["body"]["pairs"]
    await asyncio.sleep(spec.get("delay_s", 0.005))
    score, count = spec.get("score", 0.25), len(pairs) - spec.get("drop", 0)
    results = [{"index": index, "score": score, "label": "same", "match": False} for index in range(count)]
    timing = {"Server-Timing": f"queue;dur=1.5, compute;dur={spec.get('delay_s', 0.005) * 1000}"}
    return JSONResponse({"model": "matching", "results": results, "usage": {}}, headers=timing)


async def rerank(request: Request) -> Response:
    if refusal := await refuse(request, "rerank"):
        return refusal
    count = len(seen[-1]["body"]["documents"])
    await asyncio.sleep(0.01)
    ranked = [{"index": index, "relevance_score": index / (count + 1)} for index in reversed(range(count))]
    return JSONResponse({"model": "matching", "results": ranked if not SPEC.get("unsorted") else ranked[::-1]})


async def completions(request: Request) -> Response:
    if refusal := await refuse(request, "completion"):
        return refusal
    return StreamingResponse(events(SPEC.get("completion", {}), seen[-1]), media_type="text/event-stream")


async def events(spec: dict[str, Any], request: dict[str, Any]) -> AsyncIterator[str]:
    sent: list[float] = []
    streams.append({"id": request["id"], "began": time.perf_counter(), "sent": sent})
    await asyncio.sleep(spec.get("first_s", 0.03))
    for number in range(min(spec.get("tokens", 6), request["body"]["max_tokens"])):
        if number:
            await asyncio.sleep(spec.get("gap_s", 0.01))
        if number == spec.get("cut_after"):
            raise ConnectionAbortedError("told to cut the stream")
        sent.append(time.perf_counter())
        yield f"data: {json.dumps({'choices': [{'index': 0, 'text': f't{number} ', 'finish_reason': None}]})}\n\n"
    yield ": a comment, not a token\n\n"
    yield f"data: {json.dumps({'choices': [{'index': 0, 'text': '', 'finish_reason': 'length'}]})}\n\n"
    yield f"data: {json.dumps({'choices': [], 'usage': {'completion_tokens': len(sent)}})}\n\n"
    if not spec.get("no_done"):
        yield "data: [DONE]\n\n"


async def models(request: Request) -> Response:
    kept = [model for model in MODELS if model["kind"] not in SPEC.get("without", [])]
    return JSONResponse({"object": "list", "data": kept}, headers={"X-Served-By": "peer"})


async def ready(request: Request) -> Response:
    return error(503, "warming_up") if SPEC.get("not_ready") else JSONResponse({"status": "ready"})


async def log(request: Request) -> Response:
    return JSONResponse({"seen": seen, "streams": streams})


APP = Starlette(
    routes=[
        Route("/v1/match", match, methods=["POST"]),
        Route("/v1/rerank", rerank, methods=["POST"]),
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/models", models),
        Route("/readyz", ready),
        Route("/log", log),
    ]
)

if __name__ == "__main__":
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(APP, log_level="critical", access_log=False)).run(sockets=[listener])
