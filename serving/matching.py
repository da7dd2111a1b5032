"""Match, rerank and score: a validated request in, the answer as a plain dict out. All score pairs in one way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from runtime.contract import Pair, PairResult
from runtime.errors import InvalidInput
from serving.call import Call
from serving.catalogue import Served
from serving.errors import describe
from serving.room import Room
from serving.schemas import MatchRequest, RerankRequest, ScoreRequest
from serving.submission import PAIR_KINDS, begin, encoder, scored, tokenised


async def match(room: Room, call: Call, request: MatchRequest) -> dict[str, Any]:
    """Answer /v1/match."""
    served = begin(room, call, PAIR_KINDS, request.model, len(request.pairs), "pairs")
    pairs = [Pair(pair.text_a, pair.text_b) for pair in request.pairs]
    outcomes = await scored(room, call, served, pairs, truncate=request.truncate)
    threshold = served.threshold if request.threshold is None else request.threshold
    results = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, PairResult):
            is_match = outcome.score >= threshold
            results.append(
                {
                    "index": index,
                    "score": outcome.score,
                    "label": served.labels[is_match],
                    "match": is_match,
                    "truncated": outcome.dropped_tokens > 0,
                    "dropped_tokens": outcome.dropped_tokens,
                }
            )
        else:
            results.append({"index": index, "error": describe(outcome, call.id)})
    return {"model": served.id, "results": results, "usage": _usage(call)}


async def rerank(room: Room, call: Call, request: RerankRequest) -> dict[str, Any]:
    """Answer /v1/rerank and /v2/rerank."""
    served = begin(room, call, PAIR_KINDS, request.model, len(request.documents), "documents")
    documents: Sequence[str] = request.documents
    dropped: Sequence[int] = ()
    if request.max_tokens_per_doc is not None:
        documents, dropped = await _shortened(room, call, served, documents, request.max_tokens_per_doc)
    pairs = [Pair(request.query, document) for document in documents]
    outcomes = await scored(room, call, served, pairs, truncate=request.truncate, name=_document_name)
    ranked: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, PairResult):
            gone = outcome.dropped_tokens + (dropped[index] if dropped else 0)
            ranked.append(
                {
                    "index": index,
                    "relevance_score": outcome.score,
                    "truncated": gone > 0,
                    "dropped_tokens": gone,
                }
            )
            if request.return_documents:
                ranked[-1]["document"] = {"text": request.documents[index]}
        else:
            failed.append({"index": index, "error": describe(outcome, call.id)})
    # Stable: equal scores stay in the caller's order.
    ranked.sort(key=lambda result: -result["relevance_score"])
    return {
        "id": call.id,
        "model": served.id,
        "results": (ranked + failed)[: request.top_n],
        "usage": _usage(call),
    }


async def score(room: Room, call: Call, request: ScoreRequest) -> dict[str, Any]:
    """Answer /score. Raises InvalidInput where the lists do not go together."""
    ones, others = request.text_1, request.text_2
    if len(ones) not in (1, len(others)):
        raise InvalidInput(
            f"text_1 has {len(ones)} texts and text_2 {len(others)}; send one of each, one and several, or as many.",
            param="text_1",
        )
    served = begin(room, call, PAIR_KINDS, request.model, len(others), "text_2")
    pairs = [Pair(ones[index if len(ones) > 1 else 0], other) for index, other in enumerate(others)]

    def name(index: int, part: str) -> str:
        return f"text_1[{index if len(ones) > 1 else 0}]" if part == "a" else f"text_2[{index}]"

    data: list[dict[str, Any]] = []
    for index, outcome in enumerate(await scored(room, call, served, pairs, truncate=request.truncate, name=name)):
        if isinstance(outcome, PairResult):
            data.append(
                {
                    "index": index,
                    "object": "score",
                    "score": 2 * outcome.score - 1 if served.kind == "embedding" else outcome.score,
                    "truncated": outcome.dropped_tokens > 0,
                    "dropped_tokens": outcome.dropped_tokens,
                }
            )
        else:
            data.append({"index": index, "error": describe(outcome, call.id)})
    return {
        "id": f"score-{call.id}",
        "object": "list",
        "created": int(time.time()),
        "model": served.id,
        "data": data,
        "usage": _usage(call),
    }


async def _shortened(
    room: Room, call: Call, served: Served, documents: Sequence[str], tokens: int
) -> tuple[list[str], list[int]]:
    """The documents, each cut to `tokens` tokens, and how many tokens each has lost."""
    shorten = encoder(served).encoder.shorten

    def cut_all() -> list[tuple[str, int]]:
        return [shorten(document, tokens, _document_name(index, "b")) for index, document in enumerate(documents)]

    cut = await tokenised(room, call, sum(map(len, documents)), cut_all)
    return [text for text, _ in cut], [dropped for _, dropped in cut]


def _document_name(index: int, part: str) -> str:
    return "query" if part == "a" else f"documents[{index}]"


def _usage(call: Call) -> dict[str, int]:
    return {"prompt_tokens": call.tokens, "total_tokens": call.tokens}
