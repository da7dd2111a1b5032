"""Completions over the app: the text, its stream, what ends it, what is refused, and callers who leave."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from runtime.backends.fake import TALE, FakeGeneration
from runtime.contract import F32, I64
from serving.gate import Gate
from serving.generation_schemas import CompletionResponse
from tests.unit.serving.asgi import ask, complete, exchange
from tests.unit.serving.conftest import MakeApp

pytestmark = pytest.mark.unit


def test_the_whole_text_with_counts(app: Gate) -> None:
    reply = complete(app, prompt="x", max_tokens=6)
    answer = CompletionResponse.model_validate_json(reply.body)
    assert answer.choices[0].text == TALE[1:7]
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.model_dump() == {
        "prompt_tokens": 1,
        "completion_tokens": 6,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert answer.id.startswith("cmpl-")
    assert answer.model == "generation"


def test_sixteen_tokens_unless_said_otherwise(app: Gate) -> None:
    assert complete(app).json()["usage"]["completion_tokens"] == 16


def test_a_stream_has_an_event_a_token_and_says_done(make_app: MakeApp) -> None:
    app, _ = make_app(generation_model="slow-generation")
    reply = complete(app, max_tokens=5, stream=True)
    *chunks, done = reply.events()
    assert done == "[DONE]"
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert all(CompletionResponse.model_validate(chunk) for chunk in chunks)
    assert [chunk["choices"][0]["text"] for chunk in chunks] == [*TALE[1:6], ""]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 5 + ["length"]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert "usage" not in chunks[0]
    # Each token was flushed as it came; the last one, with which the text ends, together with its end.
    assert len(reply.chunks) == 6


def test_usage_comes_last_when_asked_for(app: Gate) -> None:
    events = complete(app, max_tokens=2, stream=True, stream_options={"include_usage": True}).events()
    assert [event["usage"] for event in events[:-2]] == [None] * 3
    assert events[-2]["choices"] == []
    counts = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    assert events[-2]["usage"] == counts | {"prompt_tokens_details": {"cached_tokens": 0}}


def test_stream_and_whole_text_agree(app: Gate) -> None:
    fields = {"prompt": "Once", "max_tokens": 40, "temperature": 1.3, "seed": 11, "top_k": 50, "top_p": 0.9}
    whole = complete(app, **fields).json()["choices"][0]
    chunks = complete(app, stream=True, **fields).events()[:-1]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["text"]


def test_stop_strings_end_the_text_and_are_not_shown(app: Gate) -> None:
    for stop in ("lets", ["zzz", "lets"]):
        choice = complete(app, max_tokens=60, stop=stop).json()["choices"][0]
        assert choice["text"] == TALE[1 : TALE.index("lets")]
        assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("prompt", ["x", ["x"], [120], [[120]]])
def test_a_prompt_is_text_or_token_ids(app: Gate, prompt: object) -> None:
    assert complete(app, prompt=prompt, max_tokens=3).json()["choices"][0]["text"] == TALE[1:4]


@pytest.mark.parametrize("stream", [False, True])
def test_several_prompts_are_choices_in_their_order(app: Gate, stream: bool) -> None:
    reply = complete(app, prompt=["x", "xyz", [120, 121]], max_tokens=3, stream=stream)
    found = dict.fromkeys(range(3), "")
    for answer in [event for event in reply.events() if event != "[DONE]"] if stream else [reply.json()]:
        for choice in answer["choices"]:
            found[choice["index"]] += choice["text"]
    assert found == {0: TALE[1:4], 1: TALE[3:6], 2: TALE[2:5]}
    if not stream:
        counts = {"prompt_tokens": 6, "completion_tokens": 9, "total_tokens": 15}
        assert reply.json()["usage"] == counts | {"prompt_tokens_details": {"cached_tokens": 0}}


def test_more_prompts_than_may_wait_are_refused_as_a_whole(make_app: MakeApp) -> None:
    app, room = make_app(generation_model="slow-generation", generation_queue_items=3)
    assert complete(app, prompt=["a"] * 3, max_tokens=1).status == 200
    reply = complete(app, prompt=["a"] * 4)
    assert (reply.status, reply.error["code"], reply.error["param"]) == (413, "limit_exceeded", "prompt")
    # One of them is refused, so all are: the first ones leave their slots.
    reply = complete(app, prompt=["a", "a", "x" * 300])
    assert (reply.status, reply.error["code"]) == (422, "too_many_tokens")
    engine = room.catalogue.find(("generation",), None).engine
    deadline = time.monotonic() + 2
    while engine.load().running_items + engine.load().queued_items and time.monotonic() < deadline:
        time.sleep(0.005)
    assert engine.load().running_items == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["xä", [120, 0xC3, 0xA4]])
def test_an_echo_comes_before_the_text(app: Gate, stream: bool, prompt: object) -> None:
    reply = complete(app, prompt=prompt, max_tokens=3, echo=True, stream=stream)
    answers = [event for event in reply.events() if event != "[DONE]"] if stream else [reply.json()]
    assert "".join(answer["choices"][0]["text"] for answer in answers) == "xä" + TALE[3:6]


def test_fields_at_the_value_that_changes_nothing_are_taken(app: Gate) -> None:
    neutral = {"n": 1, "best_of": 1, "echo": False, "logprobs": None, "suffix": None, "logit_bias": {}, "user": "me"}
    penalties = {"presence_penalty": 0, "frequency_penalty": 0.0}
    unset = dict.fromkeys(("max_tokens", "temperature", "top_p", "seed", "stop", "stream", "stream_options"))
    assert complete(app, **neutral, **penalties, **unset).status == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("n", 9),
        ("n", 129),
        ("best_of", 2),
        ("min_p", 1.5),
        ("repetition_penalty", 0),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -3),
        ("min_tokens", 17),
        ("logit_bias", {"999": 5}),
        ("logprobs", 6),
        ("logprobs", True),
        ("suffix", "x"),
        ("logit_bias", {"a": 5}),
        ("logit_bias", {"1": 500}),
        ("response_format", {"type": "json_schema"}),
        ("tools", []),
        ("max_tokens", 0),
        ("max_tokens", "5"),
        ("max_tokens", True),
        ("temperature", -0.1),
        ("temperature", 3),
        ("top_p", 0),
        ("top_k", -1),
        ("seed", -1),
        ("stop", ""),
        ("stop", ["a"] * 5),
        ("stop", [1]),
        ("stream", "yes"),
        ("prompt", None),
        ("prompt", []),
        ("prompt", ["a", 1]),
        ("prompt", [[]]),
        ("prompt", [[2**40]]),
        ("prompt", [1.5]),
        ("prompt", [True]),
        ("prompt", [999]),
        ("prompt", {"text": "a"}),
    ],
)
def test_what_is_not_supported_is_refused_by_name(app: Gate, field: str, value: object) -> None:
    reply = complete(app, **{field: value})
    assert reply.status == 400, reply.body
    assert reply.error["param"] == field
    assert field in reply.error["message"] or field == "prompt"


def test_a_schema_decides_what_is_said(app: Gate) -> None:
    def constrained(schema: object, **more: object) -> Any:
        asked = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        return complete(app, response_format=asked, max_tokens=20, **more)

    choice = constrained({"enum": ["lock", "sluice"]}).json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert json.loads(choice["text"]) in {"lock", "sluice"}
    text = complete(app, response_format={"type": "json_object"}, max_tokens=20).json()["choices"][0]["text"]
    assert text.startswith("{")
    refused = constrained({"type": "array", "uniqueItems": True})
    assert (refused.status, refused.error["param"]) == (400, "response_format")
    assert "uniqueItems" in refused.error["message"]
    assert constrained({}, stop="}").error["param"] == "stop"


def test_unknown_stream_options_are_refused_by_path(app: Gate) -> None:
    assert complete(app, stream=True, stream_options={"x": 1}).error["param"] == "stream_options.x"


def test_a_context_that_is_too_small_is_422(app: Gate) -> None:
    for fields in ({"prompt": "x" * 300}, {"max_tokens": 10**30}):
        reply = complete(app, **fields)
        assert (reply.status, reply.error["code"]) == (422, "too_many_tokens")
        assert "256" in reply.error["message"]


def test_a_deadline_in_the_middle_is_an_error_event(make_app: MakeApp) -> None:
    app, _ = make_app(generation_model="slow-generation")
    reply = complete(app, max_tokens=200, stream=True, headers={"X-Request-Deadline-Ms": "300"})
    assert reply.status == 200
    *chunks, last = reply.events()
    assert chunks
    assert last["error"]["code"] == "deadline_exceeded"
    assert last["error"]["request_id"] == reply.headers["x-request-id"]
    assert reply.ended


def test_a_deadline_that_passes_is_504_when_not_streamed(make_app: MakeApp) -> None:
    app, _ = make_app(generation_model="slow-generation")
    reply = complete(app, max_tokens=200, headers={"X-Request-Deadline-Ms": "200"})
    assert (reply.status, reply.error["code"], reply.error["retryable"]) == (504, "deadline_exceeded", True)


def test_a_model_that_fails_before_the_first_token_is_a_plain_500(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, _ = make_app()

    def fail(self: FakeGeneration, slot: int, ids: Sequence[int], start: int = 0, all_logits: bool = False) -> F32:
        raise RuntimeError("secret path /etc/weights")

    monkeypatch.setattr(FakeGeneration, "prefill", fail)
    reply = complete(app, stream=True)
    assert (reply.status, reply.error["code"]) == (500, "backend_failed")
    assert b"secret" not in reply.body
    assert b"RuntimeError" not in reply.body


def test_a_model_that_fails_in_mid_stream_is_an_error_event(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    app, _ = make_app()
    decode = FakeGeneration.decode

    def fail(self: FakeGeneration, tokens: I64, lengths: I64) -> F32:
        if lengths[0] > 3:
            raise RuntimeError("secret")
        return decode(self, tokens, lengths)

    monkeypatch.setattr(FakeGeneration, "decode", fail)
    reply = complete(app, stream=True)
    assert reply.status == 200
    assert reply.events()[-1]["error"]["code"] == "backend_failed"
    assert b"secret" not in reply.body


@pytest.mark.parametrize("stream", [True, False])
def test_a_caller_who_leaves_frees_the_slot(make_app: MakeApp, stream: bool) -> None:
    app, room = make_app(generation_model="slow-generation", generation_slots=1)
    engine = room.catalogue.find(("generation",), None).engine

    async def leave() -> None:
        gone = asyncio.Event()
        value = {"prompt": "x", "max_tokens": 250, "stream": stream}
        request = asyncio.create_task(exchange(app, "POST", "/v1/completions", value, leave=gone))
        while not engine.load().running_items:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        gone.set()
        reply = await asyncio.wait_for(request, 2)
        assert stream or reply.status == 0
        while engine.load().running_items:
            await asyncio.sleep(0.005)

    asyncio.run(asyncio.wait_for(leave(), 4))  # the whole text would take 5 s
    text = room.metrics.text().decode()
    assert 'sluice_cancelled_total{model="slow-generation",stage="running"} 1.0' in text
    assert 'sluice_requests_total{model="slow-generation",route="/v1/completions",status="499"} 1.0' in text


def test_a_full_queue_is_429_with_retry_after(make_app: MakeApp) -> None:
    app, _ = make_app(generation_model="slow-generation", generation_slots=1, generation_queue_items=2)

    async def flood() -> list[tuple[int, str | None]]:
        value = {"prompt": "x", "max_tokens": 40}
        replies = await asyncio.gather(*(exchange(app, "POST", "/v1/completions", value) for _ in range(6)))
        return [(reply.status, reply.headers.get("retry-after")) for reply in replies]

    answers = asyncio.run(flood())
    served = [retry for status, retry in answers if status == 200]
    shed = [retry for status, retry in answers if status == 429]
    assert len(served) >= 2
    assert len(served) + len(shed) == 6
    assert shed
    assert all(retry is not None and int(retry) >= 1 for retry in shed)


def test_pages_of_the_prompt_are_tokenised_off_the_loop(app: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    hops: list[str] = []
    to_thread = asyncio.to_thread

    async def seen(function, *arguments, **options):  # type: ignore[no-untyped-def]
        hops.append(function.__name__)
        return await to_thread(function, *arguments, **options)

    monkeypatch.setattr(asyncio, "to_thread", seen)
    ask(app, "POST", "/v1/match", {"pairs": [{"text_a": "a" * 5000, "text_b": "b"}]})
    complete(app, prompt="a" * 5000)
    assert len(hops) == 2
    ask(app, "POST", "/v1/match", {"pairs": [{"text_a": "a", "text_b": "b"}]})
    assert len(hops) == 2


def test_the_pages_are_whole_files() -> None:
    pages = Path(__file__).parents[3] / "serving" / "pages"
    for page in pages.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in text
