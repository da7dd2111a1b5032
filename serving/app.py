"""The HTTP contract as a FastAPI app: routes, their documentation, the pages. What a route does stands in the module of
its kind; what every request goes through, in the gate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import bentoml
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from runtime.manifest import Kind
from serving import chat, completions, embeddings, matching, tei
from serving.call import Call
from serving.chat_schemas import ChatRequest, ChatResponse
from serving.embedding_schemas import EmbeddingsRequest, EmbeddingsResponse
from serving.errors import MethodNotAllowed, RouteNotFound
from serving.gate import Internal
from serving.generation_schemas import CompletionRequest, CompletionResponse
from serving.room import Room
from serving.route import (
    VALUES_AN_ITEM,
    Answer,
    LeanApp,
    call_of,
    json_answer,
    json_text,
    refusal,
    written_answer,
)
from serving.schemas import (
    ErrorBody,
    Health,
    MatchRequest,
    MatchResponse,
    ModelCard,
    ModelList,
    RerankRequest,
    RerankResponse,
    ScoreRequest,
    ScoreResponse,
)
from serving.submission import PAIR_KINDS, turn_away
from serving.tei_schemas import (
    AnyRequest,
    AnyResponse,
    EmbedRequest,
    EmbedResponse,
    PredictRequest,
    PredictResponse,
    SimilarityRequest,
    SimilarityResponse,
    TeiError,
    TeiInfo,
    TeiRerankRequest,
    TeiRerankResponse,
    TokenizeRequest,
    TokenizeResponse,
)

Responses = dict[int | str, dict[str, Any]]

PAGES = Path(__file__).parent / "pages"
# BentoML ships Swagger UI; with its files /docs needs no network.
SWAGGER = Path(bentoml.__file__).parent / "_internal" / "server" / "static_content"
SWAGGER_FILES = frozenset({"swagger-ui.css", "swagger-ui-bundle.js"})
METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
DESCRIPTION = """Pairs of texts in, scores out; texts in, vectors out; prompts in, text out.

Every error has the same body. Request headers: `Authorization: Bearer KEY` where keys are set, `X-Request-ID`,
`X-Request-Deadline-Ms`. Response headers: `X-Request-ID`, `Server-Timing` (ms in total, tokenize, queue, compute)."""

MEANINGS = {
    400: "Malformed JSON, a value or a field that is not supported, or a model of another kind.",
    401: "No API key, or a wrong one.",
    404: "The model is not served here.",
    408: "The body did not arrive in time.",
    413: "Too many bytes or items.",
    415: "The body is declared as something else than JSON.",
    422: "Too many tokens.",
    429: "The queue is full, or the deadline cannot be met; come back after Retry-After seconds.",
    500: "The server or the model failed.",
    503: "Draining, or not ready.",
    504: "The deadline passed.",
}


# What is refused under overload before its body is read, and the kinds of model that could answer it.
ENCODER_PATHS: dict[str, Sequence[Kind]] = {
    **dict.fromkeys(("/v1/match", "/v1/rerank", "/v2/rerank", "/score", "/rerank"), PAIR_KINDS),
    "/predict": tei.CLASSIFIERS,
    **dict.fromkeys(("/v1/embeddings", "/embed", "/similarity"), embeddings.KINDS),
}


def create_app(room: Room, metrics_text: Callable[[], bytes] | None = None) -> FastAPI:
    """The app of a worker. `metrics_text`: what /metrics says, default this process's own metrics."""
    app = LeanApp(
        title="Sluice",
        description=DESCRIPTION,
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.max_body_bytes = room.settings.max_body_bytes
    app.state.max_values = VALUES_AN_ITEM * room.settings.max_items
    app.state.turn_away = {path: partial(turn_away, room, kinds=kinds) for path, kinds in ENCODER_PATHS.items()}
    _add_work(app, room)
    _add_tei(app, room)
    _add_models(app, room)
    _add_probes(app, room, metrics_text or room.metrics.text)
    _add_pages(app, room)
    app.add_exception_handler(HTTPException, _unrouted)
    app.add_exception_handler(Exception, _failed)
    app.settle()
    return app


def _errors(*statuses: int) -> Responses:
    return {status: {"model": ErrorBody, "description": MEANINGS[status]} for status in statuses}


def _add_work(app: FastAPI, room: Room) -> None:
    async def match(request: Request, body: MatchRequest) -> Response:
        """Score pairs: how likely the two texts of each are the same question, product or entity.

        Results come in the order of the pairs. A pair that fails alone carries its error, the others their scores.
        """
        return json_answer(await matching.match(room, call_of(request), body))

    async def rerank(request: Request, body: RerankRequest) -> Response:
        """Order documents by their relevance to a query, in the shape of Cohere's and Jina's rerank."""
        answer = await matching.rerank(room, call_of(request), body)
        characters = sum(map(len, body.documents)) if body.return_documents else 0
        return written_answer(await json_text(answer, characters))

    async def score(request: Request, body: ScoreRequest) -> Response:
        """Score texts, in vLLM's shape."""
        return json_answer(await matching.score(room, call_of(request), body))

    async def embed(request: Request, body: EmbeddingsRequest) -> Response:
        """Embed texts, in OpenAI's shape. Vectors have length 1, so the cosine of two is their product."""
        return written_answer(await embeddings.embeddings(room, call_of(request), body))

    async def complete(request: Request, body: CompletionRequest) -> Response:
        """Continue texts, in OpenAI's shape; with `stream` each token is a server-sent event, the last `[DONE]`.

        A failure after the first token is an event `{"error": …}` that ends the stream.
        """
        return await completions.complete(room, call_of(request), body)

    async def answer(request: Request, body: ChatRequest) -> Response:
        """Answer a chat, in OpenAI's shape, through the model's own chat template; streamed as completions are."""
        return await chat.chat(room, call_of(request), body)

    every = (400, 401, 404, 408, 413, 415, 429, 500, 503, 504)
    streamed: Responses = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}
    routes: tuple[tuple[str, Callable[..., Any], type[BaseModel], Responses, str], ...] = (
        ("/v1/match", match, MatchResponse, _errors(*every, 422), "Score pairs of texts"),
        ("/v1/rerank", rerank, RerankResponse, _errors(*every, 422), "Order documents by relevance"),
        ("/v2/rerank", rerank, RerankResponse, _errors(*every, 422), "The same, where Cohere's clients look for it"),
        ("/score", score, ScoreResponse, _errors(*every, 422), "Score texts, where vLLM's clients look for it"),
        ("/v1/embeddings", embed, EmbeddingsResponse, _errors(*every, 422), "Embed texts"),
        ("/v1/completions", complete, CompletionResponse, _errors(*every, 422) | streamed, "Continue texts"),
        ("/v1/chat/completions", answer, ChatResponse, _errors(*every, 422) | streamed, "Answer a chat"),
    )
    for path, endpoint, model, responses, summary in routes:
        app.add_api_route(
            path,
            endpoint,
            methods=["POST"],
            response_model=model,
            responses=responses,
            summary=summary,
            tags=["Generation" if endpoint in (complete, answer) else "Matching"],
        )


def _add_tei(app: FastAPI, room: Room) -> None:
    async def rerank(request: Request, body: TeiRerankRequest) -> Response:
        """Order texts by their relevance to a query."""
        return await tei.rerank(room, call_of(request), body)

    async def predict(request: Request, body: PredictRequest) -> Response:
        """Classify texts or pairs with a cross-encoder."""
        return await tei.predict(room, call_of(request), body)

    async def similarity(request: Request, body: SimilarityRequest) -> Response:
        """Compare a text with others by the cosine of their vectors."""
        return await tei.similarity(room, call_of(request), body)

    async def embed(request: Request, body: EmbedRequest) -> Response:
        """Embed texts."""
        return await tei.embed(room, call_of(request), body)

    async def tokenize(request: Request, body: TokenizeRequest) -> Response:
        """Show the tokens of texts."""
        return await tei.tokenize(room, call_of(request), body)

    async def any_of_them(request: Request, body: AnyRequest) -> Response:
        """Answer like /rerank, /similarity, /predict or /embed, whichever takes the body."""
        return await tei.any_of_them(room, call_of(request), body.root)

    async def info(request: Request) -> Response:
        """The model that answers first, and the limits."""
        return json_answer(tei.info(room, call_of(request)))

    routes: tuple[tuple[str, Callable[..., Any], type[BaseModel], str], ...] = (
        ("/rerank", rerank, TeiRerankResponse, "Order texts by relevance"),
        ("/predict", predict, PredictResponse, "Classify texts or pairs"),
        ("/similarity", similarity, SimilarityResponse, "Compare texts"),
        ("/embed", embed, EmbedResponse, "Embed texts"),
        ("/tokenize", tokenize, TokenizeResponse, "Show tokens"),
        ("/", any_of_them, AnyResponse, "One of these, by the body's shape"),
        ("/info", info, TeiInfo, "What is served"),
    )
    errors: Responses = {
        status: {"model": TeiError, "description": MEANINGS[status]}
        for status in (400, 408, 413, 415, 422, 429, 500, 503, 504)
    }
    errors[424] = {"model": TeiError, "description": "The model failed on a text."}
    for path, endpoint, answer, summary in routes:
        app.router.add_api_route(
            path,
            endpoint,
            methods=["GET" if endpoint is info else "POST"],
            response_model=answer,
            responses=errors | _errors(401),
            summary=summary,
            tags=["text-embeddings-inference"],
            route_class_override=tei.TeiRoute,
        )


def _add_models(app: FastAPI, room: Room) -> None:
    async def models(request: Request) -> Response:
        """Every model that this server answers with."""
        return json_answer({"object": "list", "data": [model.card for model in room.catalogue.served]})

    async def model(request: Request, id: str) -> Response:
        """One model, by id or by tag."""
        return json_answer(room.catalogue.get(id).card)

    app.add_api_route(
        "/v1/models",
        models,
        response_model=ModelList,
        responses=_errors(401),
        summary="What is served",
        tags=["Models"],
    )
    app.add_api_route(
        "/v1/models/{id}",
        model,
        response_model=ModelCard,
        responses=_errors(401, 404),
        summary="One model",
        tags=["Models"],
    )


def _add_probes(app: FastAPI, room: Room, metrics_text: Callable[[], bytes]) -> None:
    async def live(request: Request) -> Response:
        """Whether the process answers at all."""
        return json_answer({"status": "live"})

    async def ready(request: Request) -> Response:
        """Whether new work is taken: 200 once the models are loaded and warmed up, 503 while draining."""
        room.lifecycle.check()
        return json_answer({"status": "ready"})

    async def metrics(request: Request) -> Response:
        """Prometheus metrics of all workers."""
        room.set_levels()
        return Answer(200, [(b"content-type", METRICS_TYPE)], await asyncio.to_thread(metrics_text))

    app.add_api_route("/livez", live, response_model=Health, summary="Is it alive?", tags=["Probes"])
    app.add_api_route(
        "/readyz",
        ready,
        response_model=Health,
        responses=_errors(503),
        summary="Does it take work?",
        tags=["Probes"],
    )
    app.add_api_route(
        "/metrics",
        metrics,
        responses={200: {"content": {"text/plain": {}}}},
        summary="Prometheus metrics",
        tags=["Probes"],
        response_class=Response,
    )


def _add_pages(app: FastAPI, room: Room) -> None:
    playground = (PAGES / "playground.html").read_bytes()
    docs = (PAGES / "docs.html").read_bytes()

    async def index(request: Request) -> Response:
        """The playground: match, rerank and a streamed completion in a browser."""
        return HTMLResponse(playground)

    async def documentation(request: Request) -> Response:
        return HTMLResponse(docs)

    async def asset(request: Request, file: str) -> Response:
        if file not in SWAGGER_FILES:
            raise RouteNotFound(f"There is no file {file[:80]!r} here.")
        return FileResponse(SWAGGER / file, headers={"cache-control": "max-age=86400"})

    async def openapi(request: Request) -> Response:
        return json_answer(describe(app))

    app.add_api_route("/", index, response_class=HTMLResponse, summary="The playground", tags=["Pages"])
    app.add_api_route("/docs", documentation, include_in_schema=False)
    app.add_api_route("/docs/assets/{file}", asset, include_in_schema=False)
    app.add_api_route("/openapi.json", openapi, include_in_schema=False)


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document: FastAPI's, with the key scheme, and without the 422 that FastAPI adds on its own."""
    document = app.openapi()
    components = document.setdefault("components", {})
    components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    for name in ("HTTPValidationError", "ValidationError"):
        components.get("schemas", {}).pop(name, None)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            answers = operation["responses"]
            if "HTTPValidationError" in str(answers.get("422", "")):
                del answers["422"]
            if path.startswith(("/v", "/score")) or "text-embeddings-inference" in operation.get("tags", ()):
                operation["security"] = [{}, {"bearer": []}]
    return document


async def _unrouted(request: Request, error: Exception) -> Response:
    """Starlette found no route, or not this method on it."""
    assert isinstance(error, HTTPException)
    call: Call = call_of(request)
    if error.status_code == 405:
        # Starlette names the methods of one route only, and a path may have two.
        here = {method for route in request.app.routes if route.path == request.url.path for method in route.methods}
        allow = ", ".join(sorted(here)) or (error.headers or {}).get("Allow", "")
        message = f"{request.method} is not answered on {request.url.path[:200]}; use {allow}."
        return refusal(call, MethodNotAllowed(message, allow=allow))
    return refusal(call, RouteNotFound(f"There is no {request.url.path[:200]} here; see /docs for what there is."))


async def _failed(request: Request, error: Exception) -> Response:
    """Starlette raises the error again after this, and the gate logs it."""
    return refusal(call_of(request), Internal(repr(error)))
