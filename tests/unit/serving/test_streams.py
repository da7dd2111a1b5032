"""What all streams have in common: silence that is filled, tokens that come together, errors in the middle."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from runtime.backends.fake import FakeGeneration
from runtime.contract import F32
from serving.mailbox import Bell
from tests.unit.serving.asgi import ask, complete
from tests.unit.serving.conftest import MakeApp

pytestmark = pytest.mark.unit


def test_a_silent_stream_sends_comments(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    app, _ = make_app(stream_keep_alive_s=0.02)
    held = threading.Event()
    prefill = FakeGeneration.prefill

    def hold(self: FakeGeneration, slot: int, ids: Sequence[int], start: int = 0, all_logits: bool = False) -> F32:
        held.wait(0.3)
        return prefill(self, slot, ids, start, all_logits)

    monkeypatch.setattr(FakeGeneration, "prefill", hold)
    reply = complete(app, max_tokens=2, stream=True)
    *comments, last = [part for part in reply.body.decode().split("\n\n") if part.startswith(":")]
    assert last == ": keep-alive"
    assert comments
    # They are outside of the events, which come as ever.
    events = [part for part in reply.body.decode().split("\n\n") if part.startswith("data:")]
    assert len(events) == 4
    assert events[-1] == "data: [DONE]"


def test_an_error_after_a_comment_is_an_event(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    app, _ = make_app(stream_keep_alive_s=0.02)

    def fail(self: FakeGeneration, slot: int, ids: Sequence[int], start: int = 0, all_logits: bool = False) -> F32:
        threading.Event().wait(0.1)
        raise RuntimeError("secret")

    monkeypatch.setattr(FakeGeneration, "prefill", fail)
    reply = complete(app, stream=True)
    assert reply.status == 200
    assert reply.body.startswith(b": keep-alive\n\n")
    assert b'"code":"backend_failed"' in reply.body
    assert b"[DONE]" not in reply.body
    assert b"secret" not in reply.body
    assert reply.ended


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_no_comment_where_none_is_due(make_app: MakeApp, path: str) -> None:
    app, _ = make_app(stream_keep_alive_s=0, generation_model="slow-generation")
    what = {"prompt": "x"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "x"}]}
    reply = ask(app, "POST", path, {**what, "max_tokens": 3, "stream": True})
    assert b": keep-alive" not in reply.body
    assert reply.body.endswith(b"data: [DONE]\n\n")


def test_a_step_of_many_streams_wakes_the_loop_once() -> None:
    async def ring() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        calls, woken = 0, 0
        call_soon = loop.call_soon_threadsafe

        def counted(*given: object) -> object:
            nonlocal calls
            calls += 1
            return call_soon(*given)  # type: ignore[arg-type]

        class Stream:
            def wake(self) -> None:
                nonlocal woken
                woken += 1

        loop.call_soon_threadsafe = counted  # type: ignore[method-assign, assignment]
        bell = Bell(loop)
        streams = [Stream() for _ in range(8)]
        step = threading.Thread(target=lambda: [bell.ring(stream) for stream in streams])
        step.start()
        step.join()  # the loop stands still meanwhile
        await asyncio.sleep(0)
        return calls, woken

    assert asyncio.run(ring()) == (1, 8)
