"""Match and rerank: a validated request in, the answer as a plain dict out. Both score pairs through one engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from runtime.contract import JobResult, Pair, PairResult
from runtime.encoder import EncoderEngine
from runtime.errors import Cancelled, DeadlineExceeded, LimitExceeded, SluiceError
from runtime.scheduler import Job
from serving.call import Call
from serving.catalogue import Served
from serving.errors import describe
from serving.room import Room
from serving.schemas import MatchRequest, RerankRequest

# Texts with more characters than this in all are tokenised in a thread: 4000 take about a millisecond.
INLINE_CHARACTERS = 4_000
Outcome = PairResult | SluiceError


async def match(room: Room, call: Call, request: MatchRequest) -> dict[str, Any]:
    """Answer /v1/match."""
    served = _begin(room, call, request.model, len(request.pairs), "pairs")
    pairs = [Pair(pair.text_a, pair.text_b) for pair in request.pairs]
    outcomes = await _score(room, call, served, pairs, truncate=request.truncate)
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
    outcomes = await _score(room, call, served, pairs, truncate=True)
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


async def _score(room: Room, call: Call, served: Served, pairs: Sequence[Pair], *, truncate: bool) -> Sequence[Outcome]:
    """Raises what the engine's `encode` and `submit` raise, DeadlineExceeded, and Cancelled when the client leaves."""
    engine = served.engine
    assert isinstance(engine, EncoderEngine)
    deadline = call.deadline(room.settings.match_deadline_ms)
    characters = sum(len(pair.text_a) + len(pair.text_b) for pair in pairs)
    if characters > room.settings.max_body_bytes:
        # Only rerank gets here: a long query and many short documents would make a small body a day's work.
        raise LimitExceeded(
            f"The query counts once for each document, which comes to {characters} characters; this server takes "
            f"{room.settings.max_body_bytes}. Shorten the query or send fewer documents.",
            param="query",
        )
    begun = time.monotonic()
    if characters > INLINE_CHARACTERS:
        prepared = await asyncio.to_thread(engine.prepare, pairs, truncate=truncate)
    else:
        prepared = engine.prepare(pairs, truncate=truncate)
    call.tokens = sum(map(len, prepared.items))
    call.tokenize_s = time.monotonic() - begun
    room.metrics.tokenized(served.id, call.tokenize_s)
    job = engine.submit(prepared.items, deadline=deadline)
    with call.watched(job.cancel):
        result = await _finished(job, deadline)
    call.queue_s, call.compute_s = result.queue_s, result.compute_s
    return prepared.join(result.items)


async def _finished(job: Job, deadline: float) -> JobResult:
    """The job's result. The engine drops what is late in its queue; work that runs is given up here."""
    late = False

    def expire() -> None:
        nonlocal late
        late = True
        job.cancel()

    timer = asyncio.get_running_loop().call_later(max(0.0, deadline - time.monotonic()), expire)
    try:
        return await asyncio.wrap_future(job.future)
    except Cancelled:
        if late:
            raise DeadlineExceeded("The deadline passed while the request was computed; allow more time.") from None
        raise
    except asyncio.CancelledError:
        job.cancel()
        raise
    finally:
        timer.cancel()
