"""Embeddings: texts in, vectors out, in OpenAI's shape. The vectors themselves also serve text-embeddings-inference's
routes (serving/tei.py)."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from runtime.contract import F32, Embedding, Encoded
from runtime.embedding import EmbeddingEngine, normalised
from runtime.errors import BackendFailed, InvalidInput, SluiceError
from runtime.manifest import Kind
from runtime.text import Ids, Name, Side
from serving.call import Call
from serving.catalogue import Served
from serving.embedding_schemas import EmbeddingsRequest
from serving.room import Room
from serving.route import to_json
from serving.submission import admitted, begin, computed, encoder, tokenised

KINDS: tuple[Kind, ...] = ("embedding",)
# More numbers than this in an answer are written in a thread: 4000 take about three milliseconds.
INLINE_NUMBERS = 4_000
Written = TypeVar("Written")


async def embeddings(room: Room, call: Call, request: EmbeddingsRequest) -> str:
    """Answer /v1/embeddings, in JSON."""
    served = begin(room, call, KINDS, request.model, len(request.input), "input")
    check_dimensions(served, request.dimensions)
    results = await embed(room, call, served, request.input, truncate=request.truncate, name=_name)
    encode = in_base64 if request.encoding_format == "base64" else in_numbers

    def write() -> str:
        rows = vectors(results, request.dimensions)
        data = ",".join(
            f'{{"object":"embedding","index":{index},"embedding":{encode(row)},'
            f'"truncated":{to_json(result.truncated)},"dropped_tokens":{result.dropped_tokens}}}'
            for index, (row, result) in enumerate(zip(rows, results, strict=True))
        )
        usage = to_json({"prompt_tokens": call.tokens, "total_tokens": call.tokens})
        return f'{{"object":"list","data":[{data}],"model":{to_json(served.id)},"usage":{usage}}}'

    return await written(results, write)


def check_dimensions(served: Served, dimensions: int | None) -> None:
    """Raises InvalidInput for more dimensions than the model has."""
    most = encoder(served).manifest.dimensions
    if dimensions is not None and most is not None and dimensions > most:
        raise InvalidInput(
            f"dimensions is {dimensions}; model {served.id!r} has {most}. Ask for as many or fewer.",
            param="dimensions",
        )


async def embed(
    room: Room,
    call: Call,
    served: Served,
    texts: Sequence[str] | Sequence[Ids],
    *,
    truncate: bool,
    name: Name,
    side: Side = "right",
) -> list[Embedding]:
    """One embedding a text. Raises what the engine's `encode` and `submit` raise, what `computed` does, and the failure
    of a single text: these protocols have no room for it beside the others' vectors."""
    engine = served.engine
    assert isinstance(engine, EmbeddingEngine)
    deadline = admitted(room, call, served)

    def encode() -> list[Encoded]:
        return engine.encode(texts, truncate=truncate, side=side, name=name)

    items = await tokenised(room, call, sum(map(len, texts)), encode)
    results: list[Embedding] = []
    for index, result in enumerate(await computed(room, call, served, items, deadline)):
        if isinstance(result, BackendFailed):
            raise BackendFailed(result.message, param=name(index, ""))
        if isinstance(result, SluiceError):
            raise result
        assert isinstance(result, Embedding)
        results.append(result)
    return results


def vectors(results: Sequence[Embedding], dimensions: int | None = None, *, normalise: bool = True) -> F32:
    """(N, D): what the model gave, the first `dimensions` of it, of length 1 unless told otherwise."""
    rows = np.stack([result.vector for result in results])[:, :dimensions]
    return normalised(rows) if normalise else rows


async def written(results: Sequence[Embedding], write: Callable[[], Written]) -> Written:
    """What `write` gives, made in a thread where the vectors are many."""
    numbers = len(results) * len(results[0].vector)
    return await asyncio.to_thread(write) if numbers > INLINE_NUMBERS else write()


def in_numbers(row: F32) -> str:
    """(D,) as a JSON array. Nine digits give back the very 32-bit float."""
    return f"[{','.join(['%.9g'] * len(row)) % tuple(row.tolist())}]"


def in_base64(row: F32) -> str:
    """(D,) as a JSON string of its little-endian bytes."""
    return f'"{base64.b64encode(row.astype("<f4").tobytes()).decode()}"'


def _name(index: int, part: str) -> str:
    return f"input[{index}]"
