"""A request holds the engine that answers it, from the look-up to its last byte, however it ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serving.gate import Gate
from serving.lease import Leases
from serving.room import Room
from tests.unit.serving.asgi import exchange
from tests.unit.serving.conftest import MakeApp

pytestmark = pytest.mark.unit
PAIRS = [{"text_a": "a", "text_b": "b"}]
# Every route that a model answers: path, body, and a body that is refused after the look-up.
WORK: tuple[tuple[str, str, dict[str, Any], dict[str, Any]], ...] = (
    ("/v1/match", "slow-matching", {"pairs": PAIRS}, {"pairs": PAIRS * 9}),
    ("/v1/rerank", "slow-matching", {"query": "a", "documents": ["b"]}, {"query": "a", "documents": ["b"] * 9}),
    ("/v2/rerank", "slow-matching", {"query": "a", "documents": ["b"]}, {"query": "a", "documents": ["b"] * 9}),
    ("/score", "slow-matching", {"text_1": "a", "text_2": "b"}, {"text_1": "a", "text_2": ["b"] * 9}),
    ("/v1/embeddings", "slow-embedding", {"input": "a"}, {"input": ["a"] * 9}),
    ("/v1/completions", "slow-generation", {"prompt": "x"}, {"prompt": "x", "max_tokens": 9999}),
    ("/v1/completions", "slow-generation", {"prompt": "x", "stream": True}, {"prompt": [9999], "stream": True}),
)


def test_leases_are_counted_and_the_last_one_closes() -> None:
    leases, closed = Leases(), []
    leases.take()
    leases.take()
    leases.give_back()
    leases.when_free(lambda: closed.append(True))
    assert not closed
    leases.give_back()
    assert closed == [True]
    unused = Leases()
    unused.when_free(lambda: closed.append(True))
    assert len(closed) == 2


@pytest.fixture(scope="module")
def served(make_app: MakeApp) -> tuple[Gate, Room]:
    return make_app(max_items=8)


@pytest.mark.parametrize(("path", "model", "body", "refused"), WORK)
def test_every_route_holds_the_engine_it_began_with(
    served: tuple[Gate, Room], path: str, model: str, body: dict[str, Any], refused: dict[str, Any]
) -> None:
    app, room = served
    leases = room.catalogue.get(model).leases

    async def run() -> None:
        request = asyncio.ensure_future(exchange(app, "POST", path, {"model": model, **body}))
        while not leases.held:
            assert not request.done(), "answered without a lease"
            await asyncio.sleep(0)
        assert (await request).status == 200
        assert leases.held == 0
        assert (await exchange(app, "POST", path, {"model": model, **refused})).status in (400, 413, 422)
        assert leases.held == 0
        leave = asyncio.Event()
        request = asyncio.ensure_future(exchange(app, "POST", path, {"model": model, **body}, leave=leave))
        while not leases.held:
            await asyncio.sleep(0)
        leave.set()
        await request
        assert leases.held == 0

    asyncio.run(asyncio.wait_for(run(), 20))
