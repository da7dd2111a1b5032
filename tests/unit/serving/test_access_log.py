"""The access log of each kind of route: what a request was, how long its stages took, and where a client left it."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serving.gate import Gate
from serving.room import Room
from tests.unit.serving.asgi import Reply, ask, exchange
from tests.unit.serving.conftest import MakeApp

pytestmark = pytest.mark.unit
Lines = Callable[[], list[dict[str, Any]]]
STEP_MS = 20  # of the slow generation model
PAIRS = {"pairs": [{"text_a": "a", "text_b": "b"}, {"text_a": "c", "text_b": "d"}]}


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Lines]:
    """The lines so far."""
    access = logging.getLogger("sluice.access")
    access.addHandler(caplog.handler)
    seen: list[str] = []

    def read() -> list[dict[str, Any]]:
        for record in caplog.records:
            if record.name == access.name and record.getMessage() not in seen:
                seen.append(record.getMessage())
        return [json.loads(line) for line in seen]

    with caplog.at_level(logging.INFO, access.name):
        yield read
    access.removeHandler(caplog.handler)


@pytest.mark.parametrize(
    ("path", "value", "model", "items"),
    [
        ("/v1/match", PAIRS, "matching:v1", 2),
        ("/v1/rerank", {"query": "a", "documents": ["b", "c", "d"]}, "matching:v1", 3),
        ("/v2/rerank", {"query": "a", "documents": ["b"], "max_tokens_per_doc": 4}, "matching:v1", 1),
        ("/v1/embeddings", {"input": ["a", "b"]}, "embedding:v1", 2),
        ("/rerank", {"query": "a", "texts": ["b", "c"]}, "matching:v1", 2),
        ("/predict", {"inputs": ["a", "b"]}, "matching:v1", 1),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b", "c"]}}, "embedding:v1", 2),
        ("/embed", {"inputs": ["a", "b"]}, "embedding:v1", 2),
        ("/v1/completions", {"prompt": "x", "max_tokens": 3}, "generation:v1", 1),
        ("/v1/completions", {"prompt": "x", "max_tokens": 3, "stream": True}, "generation:v1", 1),
    ],
)
def test_every_kind_of_work(
    make_app: MakeApp, lines: Lines, path: str, value: dict[str, Any], model: str, items: int
) -> None:
    app, _ = make_app(access_log=True)
    reply = ask(app, "POST", path, value)
    assert reply.status == 200
    (line,) = lines()
    assert (line["route"], line["status"], line["model"], line["items"]) == (path, 200, model, items)
    assert line["total_ms"] >= line["tokenize_ms"] + line["queue_ms"] + line["compute_ms"] - 0.05  # of rounding
    assert line["compute_ms"] > 0
    assert not {"error", "stage"} & line.keys()
    if path == "/v1/completions":
        assert line["queue_ms"] < line["ttft_ms"] <= line["total_ms"]
        assert line["tokens"] == 3 + len(app_prompt_tokens(app))
    else:
        assert "ttft_ms" not in line
        # The header is written after the work, so the stages are the very same.
        timing = dict(re.findall(r"(\w+);dur=([\d.]+)", reply.headers["server-timing"]))
        assert [float(timing[stage]) for stage in ("tokenize", "queue", "compute")] == [
            line["tokenize_ms"],
            line["queue_ms"],
            line["compute_ms"],
        ]


def app_prompt_tokens(app: Gate) -> range:
    """The tokens of the prompt `x`, as a completion counts them."""
    reply = ask(app, "POST", "/v1/completions", {"prompt": "x", "max_tokens": 1})
    return range(reply.json()["usage"]["prompt_tokens"])


def test_what_is_no_work_has_no_model_and_no_times(make_app: MakeApp, lines: Lines) -> None:
    app, _ = make_app(access_log=True)
    ask(app, "GET", "/v1/models")
    ask(app, "POST", "/v1/match", {"pairs": []})
    listed, refused = lines()
    for line in (listed, refused):
        assert (line["model"], line["items"], line["compute_ms"]) == ("", 0, 0)
        assert not {"ttft_ms", "stage"} & line.keys()
    assert refused["error"] == "invalid_input"


async def left_when(app: Gate, path: str, value: Any, holds: Callable[[], bool]) -> Reply:
    """A client that leaves as soon as `holds`."""
    gone = asyncio.Event()
    request = asyncio.create_task(exchange(app, "POST", path, value, leave=gone))
    while not holds():
        await asyncio.sleep(0.002)
    gone.set()
    return await asyncio.wait_for(request, 10)


def test_a_client_that_leaves_while_it_sends(make_app: MakeApp, lines: Lines) -> None:
    app, _ = make_app(access_log=True)

    async def leave() -> Reply:
        gone = asyncio.Event()
        gone.set()
        return await exchange(app, "POST", "/v1/completions", parts=[], leave=gone)

    asyncio.run(leave())
    (line,) = lines()
    assert (line["status"], line["error"], line["stage"]) == (499, "cancelled", "receiving")
    assert (line["queue_ms"], line["compute_ms"]) == (0, 0)


ENCODERS = pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/v1/match", {"pairs": [{"text_a": "a", "text_b": "mine"}], "model": "slow-matching"}),
        ("/v1/rerank", {"query": "a", "documents": ["mine"], "model": "slow-matching"}),
        ("/v1/embeddings", {"input": ["mine"], "model": "slow-embedding"}),
    ],
)
SLOW = {"matching_model": "slow-matching", "embedding_model": "slow-embedding"}


def check_left(line: dict[str, Any], path: str, model: str, stage: str, room: Room) -> None:
    """Where it was left, in the log and in the metrics; and times that fit."""
    assert (line["route"], line["model"], line["items"]) == (path, f"{model}:v1", 1)
    assert (line["error"], line["stage"]) == ("cancelled", stage)
    assert line["queue_ms"] + line["compute_ms"] <= line["total_ms"] + 0.05
    counted = f'sluice_cancelled_total{{model="{model}",stage="{stage}"}} 1.0'
    assert counted in room.metrics.text().decode()


@ENCODERS
def test_a_client_that_leaves_a_running_encoder(
    make_app: MakeApp, lines: Lines, path: str, value: dict[str, Any]
) -> None:
    app, room = make_app(access_log=True, **SLOW)
    engine = room.catalogue.get(value["model"]).engine
    asyncio.run(left_when(app, path, value, lambda: engine.load().running_items > 0))
    (line,) = lines()
    check_left(line, path, value["model"], "running", room)
    assert line["compute_ms"] > 0


@ENCODERS
def test_a_client_that_leaves_the_queue_of_an_encoder(
    make_app: MakeApp, lines: Lines, monkeypatch: pytest.MonkeyPatch, path: str, value: dict[str, Any]
) -> None:
    app, room = make_app(access_log=True, batch_items=1, **SLOW)
    engine = room.catalogue.get(value["model"]).engine
    texts = [f"other {number}" for number in range(4)]
    other = {"input": texts} if path == "/v1/embeddings" else {"query": "q", "documents": texts}
    other_path = path if path == "/v1/embeddings" else "/v1/rerank"

    async def play() -> None:
        busy = asyncio.create_task(exchange(app, "POST", other_path, {**other, "model": value["model"]}))
        while not engine.load().running_items:
            await asyncio.sleep(0.002)
        gone = asyncio.Event()
        submit = engine.submit

        def submit_and_leave(*given: Any, **options: Any) -> Any:
            gone.set()
            return submit(*given, **options)

        monkeypatch.setattr(engine, "submit", submit_and_leave)
        await exchange(app, "POST", path, value, leave=gone)
        await busy

    asyncio.run(asyncio.wait_for(play(), 20))
    (line,) = [line for line in lines() if line["status"] == 499]
    check_left(line, path, value["model"], "queued", room)
    assert line["compute_ms"] == 0


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_a_completion_midway(make_app: MakeApp, lines: Lines, stream: bool) -> None:
    app, room = make_app(access_log=True, generation_model="slow-generation")
    value = {"prompt": "x", "max_tokens": 250, "stream": stream}
    emitted = 'sluice_output_tokens_total{model="slow-generation"} 3.0'
    asyncio.run(left_when(app, "/v1/completions", value, lambda: emitted in room.metrics.text().decode()))
    (line,) = lines()
    assert (line["status"], line["error"], line["stage"]) == (499, "cancelled", "running")
    made = int(line["tokens"]) - len(app_prompt_tokens(app))
    assert 2 <= made < 250
    # `made` tokens take that many steps, one of them the prefill; the times are of all of them, not of the first alone.
    assert line["ttft_ms"] < line["compute_ms"] + line["queue_ms"] <= line["total_ms"]
    assert line["compute_ms"] >= (made - 1) * STEP_MS


def test_a_client_that_leaves_a_completion_in_the_queue(make_app: MakeApp, lines: Lines) -> None:
    app, room = make_app(access_log=True, generation_model="slow-generation", generation_slots=1)
    engine = room.catalogue.find(("generation",), None).engine
    value = {"prompt": "x", "max_tokens": 20, "stream": True}

    async def play() -> None:
        first = asyncio.create_task(exchange(app, "POST", "/v1/completions", value))
        while not engine.load().running_items:
            await asyncio.sleep(0.002)
        await left_when(app, "/v1/completions", value, lambda: engine.load().queued_items > 0)
        await first

    asyncio.run(asyncio.wait_for(play(), 20))
    left, whole = lines()
    assert (left["status"], left["stage"], left["compute_ms"]) == (499, "queued", 0)
    assert left["queue_ms"] > 0
    assert "ttft_ms" not in left
    assert whole["status"] == 200


def test_work_whose_deadline_passes_has_its_times(make_app: MakeApp, lines: Lines) -> None:
    app, _ = make_app(access_log=True, generation_model="slow-generation")
    late = {"X-Request-Deadline-Ms": "100"}
    reply = ask(app, "POST", "/v1/completions", {"prompt": "x", "max_tokens": 250}, headers=late)
    assert reply.status == 504
    (line,) = lines()
    assert (line["status"], line["error"]) == (504, "deadline_exceeded")
    assert line["compute_ms"] >= STEP_MS
    assert "stage" not in line
