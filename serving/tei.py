"""text-embeddings-inference's routes, so that its clients work unchanged: its shapes, errors and timing headers.

Its requests name no model: the first one that fits answers. Its answers have no room for a failure beside other
results, nor for what was cut: the first fails the request, the second is counted in `x-dropped-tokens`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from runtime.contract import F32, Encoded, Pair, PairResult
from runtime.errors import BackendFailed, LimitExceeded, SluiceError
from runtime.manifest import Kind
from runtime.matching import class_probabilities
from runtime.text import Name, Side
from serving import embeddings
from serving.call import Call
from serving.catalogue import Served
from serving.errors import Empty, describe, headers_of, status_of
from serving.room import Room
from serving.route import Answer, LeanRoute, json_text, parse, to_json, written_answer
from serving.schemas import Wire
from serving.submission import PAIR_KINDS, Outcome, admitted, begin, computed, encoder, scored, tokenised
from serving.tei_schemas import (
    EmbedRequest,
    PredictRequest,
    SimilarityParameters,
    SimilarityRequest,
    TeiRerankRequest,
    TokenizeRequest,
)

CLASSIFIERS: tuple[Kind, ...] = ("matching",)
# A character may be a token of a hundred bytes in the answer of /tokenize.
MAX_TOKENIZE_CHARACTERS = 100_000
# Where their status differs from serving/errors.py's, because clients of these routes know theirs.
STATUSES = {"invalid_input": 422, "malformed_json": 422, "backend_failed": 424}
TYPES = {
    "empty": "Empty",
    "overloaded": "Overloaded",
    "deadline_exceeded": "Overloaded",
    "not_ready": "Unhealthy",
    "backend_failed": "Backend",
    "internal": "Backend",
    "artifact_refused": "Backend",
}


class TeiRoute(LeanRoute):
    """A route whose errors have text-embeddings-inference's body."""

    @staticmethod
    def refuse(call: Call, error: SluiceError) -> Answer:
        """The answer to an error; noted in the call for the log."""
        call.error = error.code
        message = describe(error, call.id)["message"]
        body = to_json({"error": message, "error_type": TYPES.get(error.code, "Validation")}).encode()
        status = STATUSES.get(error.code, status_of(error))
        return Answer(status, headers_of(error, body), body)


async def rerank(room: Room, call: Call, request: TeiRerankRequest) -> Response:
    """Answer /rerank."""
    served = _begin(room, call, PAIR_KINDS, len(request.texts), "texts")
    pairs = [Pair(request.query, text) for text in request.texts]
    outcomes = await scored(
        room, call, served, pairs, truncate=request.truncate is not False, side=_side(request), name=_rerank_name
    )
    results = _whole(outcomes, _rerank_name)
    ranks: list[dict[str, Any]] = [
        {"index": index, "score": _raw(served, result) if request.raw_scores else result.score}
        for index, result in enumerate(results)
    ]
    if request.return_text:
        for rank, text in zip(ranks, request.texts, strict=True):
            rank["text"] = text
    ranks.sort(key=lambda rank: -rank["score"])
    characters = len(request.query) * len(pairs) + sum(map(len, request.texts))
    text = await json_text(ranks, characters if request.return_text else 0)
    return _answer(call, text, characters, results)


async def predict(room: Room, call: Call, request: PredictRequest) -> Response:
    """Answer /predict: every class with its score."""
    inputs = request.inputs.inputs
    served = _begin(room, call, CLASSIFIERS, len(inputs), "inputs")
    deadline = admitted(room, call, served)
    characters = sum(len(each) if isinstance(each, str) else len(each.text_a) + len(each.text_b) for each in inputs)

    def encode() -> list[Encoded]:
        return encoder(served).encoder.encode(
            inputs, truncate=request.truncate is not False, side=_side(request), name=_input_name
        )

    items = await tokenised(room, call, characters, encode)
    outcomes: Sequence[Any] = await computed(room, call, served, items, deadline)
    results = _whole(outcomes, _input_name)
    top = request.parameters.top_k if request.parameters else None
    answers = [_classes(served, result.logits, request.raw_scores)[:top] for result in results]
    return _answer(call, to_json(answers[0] if request.inputs.single else answers), characters, results)


async def similarity(room: Room, call: Call, request: SimilarityRequest) -> Response:
    """Answer /similarity: the cosine of the source with each sentence."""
    inputs, parameters = request.inputs, request.parameters or SimilarityParameters()
    served = _begin(room, call, embeddings.KINDS, len(inputs.sentences), "inputs.sentences")
    pairs = [Pair(inputs.source_sentence, sentence) for sentence in inputs.sentences]
    outcomes = await scored(
        room,
        call,
        served,
        pairs,
        truncate=parameters.truncate is not False,
        side=_side(parameters),
        name=_similarity_name,
    )
    results = _whole(outcomes, _similarity_name)
    characters = len(inputs.source_sentence) + sum(map(len, inputs.sentences))
    return _answer(call, to_json([_raw(served, result) for result in results]), characters, results)


async def embed(room: Room, call: Call, request: EmbedRequest) -> Response:
    """Answer /embed."""
    served = _begin(room, call, embeddings.KINDS, len(request.inputs), "inputs")
    embeddings.check_dimensions(served, request.dimensions)
    results = await embeddings.embed(
        room,
        call,
        served,
        request.inputs,
        truncate=request.truncate is not False,
        side=_side(request),
        name=_input_name,
    )

    def write() -> str:
        rows = embeddings.vectors(results, request.dimensions, normalise=request.normalize)
        return f"[{','.join(map(embeddings.in_numbers, rows))}]"

    text = await embeddings.written(results, write)
    return _answer(call, text, sum(map(len, request.inputs)), results)


async def tokenize(room: Room, call: Call, request: TokenizeRequest) -> Response:
    """Answer /tokenize."""
    served = _begin(room, call, PAIR_KINDS, len(request.inputs), "inputs")
    characters = sum(map(len, request.inputs))
    if characters > MAX_TOKENIZE_CHARACTERS:
        raise LimitExceeded(
            f"inputs have {characters} characters; this route takes {MAX_TOKENIZE_CHARACTERS}. Send them in parts.",
            param="inputs",
        )

    def spell() -> str:
        encodings = encoder(served).encoder.spell(request.inputs, special=request.add_special_tokens)
        call.tokens = sum(map(len, encodings))
        rows = []
        for text, encoding in zip(request.inputs, encodings, strict=True):
            parts = zip(encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True)
            # One by one: the interpreter is free for others between two of them.
            rows.append(",".join(to_json(_token(text, *part)) for part in parts))
        return f"[{','.join(f'[{row}]' for row in rows)}]"

    return _answer(call, await tokenised(room, call, characters, spell), characters, ())


def info(room: Room, call: Call) -> dict[str, Any]:
    """Answer /info: of the first matching model, else of the first embedding model."""
    served = room.begin(call, PAIR_KINDS, None)
    manifest, limits, settings = encoder(served).manifest, encoder(served).limits, room.settings
    labels = {str(place): label for place, label in enumerate(manifest.labels)}
    classes = {"id2label": labels, "label2id": {label: int(place) for place, label in labels.items()}}
    return {
        "model_id": served.tag,
        "model_sha": manifest.digest,
        "model_dtype": {"fp32": "float32", "fp16": "float16"}.get(manifest.precision, manifest.precision),
        "served_model_name": served.id,
        "model_type": {"reranker": classes} if served.kind == "matching" else {"embedding": {"pooling": "mean"}},
        "max_concurrent_requests": settings.queue_items,
        "max_input_length": manifest.max_tokens,
        "max_batch_tokens": limits.batch_tokens,
        "max_batch_requests": limits.batch_items,
        "max_client_batch_size": settings.max_items,
        "auto_truncate": True,
        "tokenization_workers": 1,
        "version": "sluice-1",
        "sha": None,
        "docker_label": None,
    }


async def any_of_them(room: Room, call: Call, value: dict[str, Any]) -> Response:
    """Answer a body that huggingface_hub posts to the server's own URL: by its shape, where that leaves the choice open
    as /embed if an embedding model is served, else as /predict."""

    async def read(model: type[Wire]) -> Any:
        # In a thread, because it may be long.
        return await asyncio.to_thread(lambda: parse(model, list(model.model_fields), call, to_json(value).encode()))

    inputs = value.get("inputs")
    if "texts" in value:
        return await rerank(room, call, await read(TeiRerankRequest))
    if isinstance(inputs, dict):
        return await similarity(room, call, await read(SimilarityRequest))
    first = inputs[0] if isinstance(inputs, list) and inputs else None
    pairs = isinstance(first, list) and bool(first) and isinstance(first[0], str)
    embeds = any(model.kind == "embedding" for model in room.catalogue.served)
    if pairs or "parameters" in value or "raw_scores" in value or not embeds:
        return await predict(room, call, await read(PredictRequest))
    return await embed(room, call, await read(EmbedRequest))


def _begin(room: Room, call: Call, kinds: Sequence[Kind], items: int, what: str) -> Served:
    if not items:
        raise Empty(f"{what} cannot be empty; send at least one text.", param=what)
    return begin(room, call, kinds, None, items, what)


def _whole(outcomes: Sequence[Outcome], name: Name) -> list[PairResult]:
    results = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, BackendFailed):
            raise BackendFailed(outcome.message, param=name(index, ""))
        if isinstance(outcome, SluiceError):
            raise outcome
        results.append(outcome)
    return results


def _raw(served: Served, result: PairResult) -> float:
    """A cross-encoder's logit of the positive class; the cosine of a bi-encoder's vectors."""
    if result.logits is None:
        return 2 * result.score - 1
    positive = encoder(served).manifest.positive_label
    return float(result.logits[-1 if positive is None or len(result.logits) == 1 else positive])


def _classes(served: Served, logits: F32 | None, raw: bool) -> list[dict[str, Any]]:
    assert logits is not None
    labels = encoder(served).manifest.labels
    if len(labels) != len(logits):
        labels = (served.labels[1],) if len(logits) == 1 else tuple(f"LABEL_{place}" for place in range(len(logits)))
    scores = (logits if raw else class_probabilities(logits)).tolist()
    classes = [{"score": score, "label": label} for score, label in zip(scores, labels, strict=True)]
    return sorted(classes, key=lambda each: -each["score"])


def _token(text: str, id: int, token: str, special: int, offsets: tuple[int, int]) -> dict[str, Any]:
    if special:
        return {"id": id, "text": token, "special": True, "start": None, "stop": None}
    start, stop = offsets
    return {"id": id, "text": text[start:stop], "special": False, "start": start, "stop": stop}


def _answer(call: Call, text: str, characters: int, results: Sequence[Any]) -> Response:
    total = b"%d" % ((time.monotonic() - call.received) * 1000)
    return written_answer(
        text,
        (b"x-compute-type", b"sluice"),
        (b"x-compute-time", total),
        (b"x-compute-characters", b"%d" % characters),
        (b"x-compute-tokens", b"%d" % call.tokens),
        (b"x-dropped-tokens", b"%d" % sum(result.dropped_tokens for result in results)),
        (b"x-total-time", total),
        (b"x-tokenization-time", b"%d" % (call.tokenize_s * 1000)),
        (b"x-queue-time", b"%d" % (call.queue_s * 1000)),
        (b"x-inference-time", b"%d" % (call.compute_s * 1000)),
    )


def _side(request: Any) -> Side:
    return "left" if request.truncation_direction.lower() == "left" else "right"


def _rerank_name(index: int, part: str) -> str:
    return "query" if part == "a" else f"texts[{index}]"


def _input_name(index: int, part: str) -> str:
    return f"inputs[{index}]"


def _similarity_name(index: int, part: str) -> str:
    return "inputs.source_sentence" if part == "a" else f"inputs.sentences[{index}]"
