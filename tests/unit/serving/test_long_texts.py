"""A text of a megabyte is one caller's affair: the event loop goes on for the others while it is tokenised."""

from __future__ import annotations

import asyncio
import time

import pytest

from serving.gate import Gate
from tests.unit.serving.asgi import exchange

pytestmark = pytest.mark.unit
WORDS = "word " * 160_000


@pytest.mark.parametrize(
    ("path", "value", "status"),
    [
        ("/v1/match", {"pairs": [{"text_a": WORDS, "text_b": "b"}]}, 200),
        ("/v1/embeddings", {"input": WORDS}, 200),
        ("/v1/completions", {"prompt": WORDS}, 422),
    ],
)
def test_the_loop_goes_on(app: Gate, path: str, value: object, status: int) -> None:
    async def watch() -> tuple[float, float]:
        request = asyncio.create_task(exchange(app, "POST", path, value))
        begun = last = time.monotonic()
        longest = 0.0
        while not request.done():
            await asyncio.sleep(0.001)
            now = time.monotonic()
            longest, last = max(longest, now - last), now
        assert (await request).status == status
        return longest, time.monotonic() - begun

    longest_s, whole_s = asyncio.run(watch())
    # Reading the JSON and taking the token ids over are the only long stops left.
    assert longest_s < whole_s / 2, f"the loop stood still for {longest_s:.2f} of {whole_s:.2f} s"
