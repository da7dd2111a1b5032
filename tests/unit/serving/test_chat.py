"""Chats over the app: the answer, its stream, what is taken and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.backends.fake import TALE
from serving.chat_schemas import ChatChunk, ChatResponse
from serving.gate import Gate
from tests.unit.serving.asgi import Reply, ask

pytestmark = pytest.mark.unit
USER = {"role": "user", "content": "Hello"}
PROMPT = "user: Hello\nassistant:"  # of a base model


def chat(app: Gate, *messages: Any, **fields: Any) -> Reply:
    """POST /v1/chat/completions."""
    return ask(app, "POST", "/v1/chat/completions", {"messages": list(messages or [USER]), **fields})


def told(tokens: int, prompt: str = PROMPT) -> str:
    """What the fake model says after a prompt."""
    start = len(prompt)
    return (TALE * 10)[start : start + tokens]


def test_an_answer_with_counts(app: Gate) -> None:
    reply = ChatResponse.model_validate_json(chat(app, max_tokens=6).body)
    assert reply.choices[0].message.content == told(6)
    assert reply.choices[0].finish_reason == "length"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (len(PROMPT), 6)
    assert reply.id.startswith("chatcmpl-")


def test_a_stream_says_who_speaks_then_what_then_why_it_ends(app: Gate) -> None:
    *chunks, done = chat(app, max_completion_tokens=4, stream=True, stream_options={"include_usage": True}).events()
    assert done == "[DONE]"
    assert all(ChatChunk.model_validate(chunk) for chunk in chunks)
    first, *middle, last, counts = chunks
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in middle) == told(4)
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "length")
    assert counts["choices"] == []
    assert counts["usage"]["total_tokens"] == len(PROMPT) + 4


def test_without_a_limit_an_answer_may_fill_the_context(app: Gate) -> None:
    usage = chat(app).json()["usage"]
    assert usage["total_tokens"] == 256


def test_turns_come_in_their_order_and_parts_are_joined(app: Gate) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Who"}, {"type": "text", "text": " goes?"}]},
        # as a client's answer object comes back
        {"role": "assistant", "content": "I.", "refusal": None, "tool_calls": None, "annotations": []},
        {"role": "user", "content": "You", "name": "guard"},
    ]
    prompt = "system: Be brief.\nuser: Who goes?\nassistant: I.\nuser: You\nassistant:"
    answer = chat(app, *messages, max_tokens=5).json()
    assert answer["usage"]["prompt_tokens"] == len(prompt)
    assert answer["choices"][0]["message"]["content"] == told(5, prompt)


def test_what_asks_for_nothing_is_taken(app: Gate) -> None:
    neutral: dict[str, Any] = {
        "n": 1,
        "tools": [],
        "tool_choice": "none",
        "parallel_tool_calls": True,
        "functions": None,
        "modalities": ["text"],
        "store": False,
        "metadata": {"a": "b"},
        "user": "me",
        "service_tier": "auto",
        "response_format": {"type": "text"},
        "logprobs": False,
        "top_logprobs": None,
        "logit_bias": {},
        "presence_penalty": 0,
        "audio": None,
        "max_tokens": 3,
        "max_completion_tokens": 3,
        "stream": False,
    }
    assert chat(app, **neutral).status == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("functions", [{"name": "f"}]),
        ("function_call", {"name": "f"}),
        ("audio", {"voice": "x", "format": "wav"}),
        ("modalities", ["text", "audio"]),
        ("prediction", {"type": "content", "content": "x"}),
        ("reasoning_effort", "low"),
        ("web_search_options", {}),
        ("store", True),
        ("service_tier", "flex"),
        ("verbosity", "low"),
        ("top_logprobs", 2),
        ("top_logprobs", 21),
        ("logprobs", 2),
        ("n", 0),
        ("max_tokens", 0),
        ("best_of", 1),
        ("echo", True),
        ("prompt", "x"),
        ("response_format", {"type": "yaml"}),
        ("messages", []),
        ("messages", "x"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(app: Gate, field: str, value: object) -> None:
    reply = ask(app, "POST", "/v1/chat/completions", {"messages": [USER], field: value})
    assert reply.status == 400, reply.body
    assert reply.error["param"].startswith(field)


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "tool", "content": "x"}, "messages[1].role"),
        ({"role": "user"}, "messages[1].content"),
        ({"role": "assistant", "content": None}, "messages[1].content"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "messages[1].content"),
        ({"role": "user", "content": [{"type": "text", "text": 1}]}, "messages[1].content"),
        ({"role": "assistant", "content": "x", "tool_calls": [{}]}, "messages[1].tool_calls"),
        ({"role": "user", "content": "x", "mood": "glad"}, "messages[1].mood"),
    ],
)
def test_a_message_that_is_not_supported_is_refused_by_its_place(app: Gate, message: object, param: str) -> None:
    reply = chat(app, USER, message)
    assert reply.status == 400, reply.body
    assert reply.error["param"].startswith(param)


def test_two_limits_must_agree(app: Gate) -> None:
    assert chat(app, max_tokens=3, max_completion_tokens=4).error["param"] == "max_completion_tokens"


def test_a_chat_that_is_too_long_is_422_and_names_the_messages(app: Gate) -> None:
    reply = chat(app, {"role": "user", "content": "x" * 300})
    assert (reply.status, reply.error["code"], reply.error["param"]) == (422, "too_many_tokens", "messages")
