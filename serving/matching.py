"""Match and rerank: a validated request in, the answer as a plain dict out. Both score pairs through one engine."""

from __future__ import annotations

from typing import Any

from runtime.contract import Pair, PairResult
from runtime.errors import LimitExceeded
from serving.call import Call
from serving.catalogue import Served
from serving.errors import describe
from serving.room import Room
from serving.schemas import MatchRequest, RerankRequest
from serving.submission import scored


async def match(room: Room, call: Call, request: MatchRequest) -> dict[str, Any]:
    """Answer /v1/match."""
    served = _begin(room, call, request.model, len(request.pairs), "pairs")
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
                    "truncated": outcome.truncated,
                }
            )
        else:
            results.append({"index": index, "error": describe(outcome, call.id)})
    return {"model": served.id, "results": results, "usage": _usage(call)}


async def rerank(room: Room, call: Call, request: RerankRequest) -> dict[str, Any]:
    """Answer /v1/rerank."""
    served = _begin(room, call, request.model, len(request.documents), "documents")
    pairs = [Pair(request.query, document) for document in request.documents]
    outcomes = await scored(room, call, served, pairs, truncate=True)
    ranked: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, PairResult):
            ranked.append({"index": index, "relevance_score": outcome.score})
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


def _begin(room: Room, call: Call, model: str | None, items: int, what: str) -> Served:
    served = room.begin(call, "matching", model)
    call.items = items
    if items > room.settings.max_items:
        raise LimitExceeded(
            f"The request has {items} {what}; this server takes {room.settings.max_items}. Send them in parts.",
            param=what,
        )
    return served


def _usage(call: Call) -> dict[str, int]:
    return {"prompt_tokens": call.tokens, "total_tokens": call.tokens}
