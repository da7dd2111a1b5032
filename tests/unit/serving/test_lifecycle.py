"""Draining: running requests are waited for, but not for ever; the notice period is kept."""

from __future__ import annotations

import asyncio
import time

import pytest

from runtime.errors import NotReady
from serving.lifecycle import Lifecycle

pytestmark = pytest.mark.unit


def drained(lifecycle: Lifecycle, finish_after_s: float | None = None) -> float:
    """Seconds until the server may shut down."""

    async def run() -> float:
        begun = time.monotonic()
        ended: list[float] = []
        if finish_after_s is not None:
            asyncio.get_running_loop().call_later(finish_after_s, setattr, lifecycle, "in_flight", 0)
        await lifecycle.drain(lambda: ended.append(time.monotonic() - begun))
        return ended[0]

    return asyncio.run(run())


def test_new_work_is_refused_from_then_on() -> None:
    lifecycle = Lifecycle(notice_s=0, timeout_s=1)
    lifecycle.check()
    assert drained(lifecycle) < 0.5
    with pytest.raises(NotReady):
        lifecycle.check()


def test_running_requests_are_waited_for() -> None:
    lifecycle = Lifecycle(notice_s=0, timeout_s=5)
    lifecycle.in_flight = 1
    assert 0.2 <= drained(lifecycle, finish_after_s=0.2) < 2


def test_but_not_longer_than_the_timeout() -> None:
    lifecycle = Lifecycle(notice_s=0, timeout_s=0.2)
    lifecycle.in_flight = 1
    assert 0.2 <= drained(lifecycle) < 2


def test_the_notice_period_is_kept_when_nothing_runs() -> None:
    assert 0.2 <= drained(Lifecycle(notice_s=0.2, timeout_s=0)) < 2
