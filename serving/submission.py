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
from runtime.manifest import Kind
from runtime.text import Name, Side, pair_name
from serving.call import Call
from serving.catalogue import Served
from serving.mailbox import Answer
from serving.room import Room

# Texts with more characters than this in all are tokenised in a thread: 4000 take about a millisecond.
INLINE_CHARACTERS = 4_000
# The results of more pairs than this are joined in a thread: a thousand of a bi-encoder's take several milliseconds.
INLINE_PAIRS = 256
# Pairs are scored by both kinds of encoders; where a request names no model, by the first of the first kind.
PAIR_KINDS: tuple[Kind, ...] = ("matching", "embedding")
Outcome = PairResult | SluiceError
Tokenised = TypeVar("Tokenised")


def begin(room: Room, call: Call, kinds: Sequence[Kind], model: str | None, items: int, what: str) -> Served:
    """The encoder that answers. `what`: the field that holds the items.

    Raises NotReady, ModelNotFound, WrongKind, and LimitExceeded above `max_items`.
    """
    served = room.begin(call, kinds, model)
    call.items = items
    if items > room.settings.max_items:
        raise LimitExceeded(
            f"The request has {items} {what}; this server takes {room.settings.max_items}. Send them in parts.",
            param=what,
        )
    return served


def turn_away(room: Room, call: Call, kinds: Sequence[Kind]) -> None:
    """Refuse a request whose body nobody has looked at, when every model that could answer is too busy for the smallest
    one: under overload most requests end here. Raises Overloaded, InvalidInput on a bad deadline."""
    models = room.catalogue.of(kinds)
    deadline = call.deadline(room.settings.match_deadline_ms)
    if models and all(encoder(served).would_refuse(1, deadline=deadline) for served in models):
        call.model, call.tag = models[0].id, models[0].tag
        encoder(models[0]).admit(1, deadline=deadline)


def encoder(served: Served) -> EncoderEngine:
    """The engine of an encoder."""
    assert isinstance(served.engine, EncoderEngine)
    return served.engine


async def scored(
    room: Room,
    call: Call,
    served: Served,
    pairs: Sequence[Pair],
    *,
    truncate: bool = True,
    side: Side = "right",
    name: Name = pair_name,
) -> list[Outcome]:
    """A result for each pair.

    Raises what the engine's `prepare` and `submit` raise, LimitExceeded, DeadlineExceeded, and Cancelled when the
    client leaves.
    """
    engine = encoder(served)
    characters = sum(len(pair.text_a) + len(pair.text_b) for pair in pairs)
    if characters > room.settings.max_body_bytes:
        # A long text beside many short ones would make a small body a day's work.
        raise LimitExceeded(
            f"{name(0, 'a')} counts once for each text beside it, which comes to {characters} characters; this server "
            f"takes {room.settings.max_body_bytes}. Shorten it or send fewer texts.",
            param=name(0, "a"),
        )
    deadline = admitted(room, call, served)

    def prepare() -> Prepared:
        return engine.prepare(pairs, truncate=truncate, side=side, name=name)

    prepared = await tokenised(room, call, characters, prepare)
    results = await computed(room, call, served, prepared.items, deadline)
    return prepared.join(results) if len(pairs) <= INLINE_PAIRS else await asyncio.to_thread(prepared.join, results)


def admitted(room: Room, call: Call, served: Served) -> float:
    """The deadline of work that the queue would take now. Raises what `submit` raises, before texts are tokenised."""
    deadline = call.deadline(room.settings.match_deadline_ms)
    encoder(served).admit(1, deadline=deadline)
    return deadline


async def tokenised(room: Room, call: Call, characters: int, tokenise: Callable[[], Tokenised]) -> Tokenised:
    """What `tokenise` gives, made in a thread where that takes long, and timed."""
    begun = time.monotonic()
    done = await asyncio.to_thread(tokenise) if characters > INLINE_CHARACTERS else tokenise()
    call.end_tokenizing(begun)
    # Its own part: a request that tokenises twice must not count the first part twice.
    room.metrics.tokenized(call.model, time.monotonic() - begun)
    return done


async def computed(
    room: Room, call: Call, served: Served, items: Sequence[Encoded], deadline: float
) -> Sequence[Result | SluiceError]:
    """The items' results. The engine drops what is late in its queue; work that runs is given up here.

    Raises what `submit` raises, DeadlineExceeded, and Cancelled when the client leaves.
    """
    call.tokens = sum(map(len, items))
    loop = asyncio.get_running_loop()
    answer: Answer = loop.create_future()
    mailbox = room.mailbox(loop)
    job = encoder(served).submit(items, lambda outcome: mailbox.post(answer, outcome), deadline=deadline)
    call.work = job
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
        call.note_times()  # of work that has not come to its end; what has says it better
    call.queue_s, call.compute_s = result.queue_s, result.compute_s
    return result.items
