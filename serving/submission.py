"""The way of every matching and embedding request into an engine and back: tokenise, queue, wait; a deadline that may
pass, a client that may leave."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from runtime.contract import Encoded, Pair, PairResult, Prepared, Result
from runtime.encoder import EncoderEngine
from runtime.errors import Cancelled, DeadlineExceeded, LimitExceeded, SluiceError
from serving.call import Call
from serving.catalogue import Served
from serving.mailbox import Answer
from serving.room import Room

# Texts with more characters than this in all are tokenised in a thread: 4000 take about a millisecond.
INLINE_CHARACTERS = 4_000
Tokenised = TypeVar("Tokenised")


async def scored(
    room: Room, call: Call, served: Served, pairs: Sequence[Pair], *, truncate: bool = True
) -> list[PairResult | SluiceError]:
    """A result for each pair.

    Raises what the engine's `prepare` and `submit` raise, LimitExceeded, DeadlineExceeded, and Cancelled when the
    client leaves.
    """
    engine = served.engine
    assert isinstance(engine, EncoderEngine)
    characters = sum(len(pair.text_a) + len(pair.text_b) for pair in pairs)
    if characters > room.settings.max_body_bytes:
        # Only rerank gets here: a long query and many short documents would make a small body a day's work.
        raise LimitExceeded(
            f"The query counts once for each document, which comes to {characters} characters; this server takes "
            f"{room.settings.max_body_bytes}. Shorten the query or send fewer documents.",
            param="query",
        )
    deadline = call.deadline(room.settings.match_deadline_ms)
    engine.admit(1, deadline=deadline)

    def prepare() -> Prepared:
        return engine.prepare(pairs, truncate=truncate)

    prepared = await _tokenised(room, call, characters, prepare)
    return prepared.join(await _computed(room, call, engine, prepared.items, deadline))


async def _tokenised(room: Room, call: Call, characters: int, tokenise: Callable[[], Tokenised]) -> Tokenised:
    begun = time.monotonic()
    done = await asyncio.to_thread(tokenise) if characters > INLINE_CHARACTERS else tokenise()
    call.tokenize_s = time.monotonic() - begun
    room.metrics.tokenized(call.model, call.tokenize_s)
    return done


async def _computed(
    room: Room, call: Call, engine: EncoderEngine, items: Sequence[Encoded], deadline: float
) -> Sequence[Result | SluiceError]:
    """The items' results. The engine drops what is late in its queue; work that runs is given up here."""
    call.tokens = sum(map(len, items))
    loop = asyncio.get_running_loop()
    answer: Answer = loop.create_future()
    mailbox = room.mailbox(loop)
    job = engine.submit(items, lambda outcome: mailbox.post(answer, outcome), deadline=deadline)
    late = False

    def expire() -> None:
        nonlocal late
        late = True
        job.cancel()

    timer = loop.call_later(max(0.0, deadline - time.monotonic()), expire)
    try:
        with call.watched(job.cancel):
            result = await answer
    except Cancelled:
        if late:
            raise DeadlineExceeded("The deadline passed while the request was computed; allow more time.") from None
        raise
    except asyncio.CancelledError:
        job.cancel()
        raise
    finally:
        timer.cancel()
    call.queue_s, call.compute_s = result.queue_s, result.compute_s
    return result.items
