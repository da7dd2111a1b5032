"""Log-probabilities in OpenAI's shapes: whole and streamed alike, each token where it stands in the text."""

from __future__ import annotations

import math
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers

from runtime.backends.fake import END, TALE, byte_tokenizer
from runtime.contract import Token
from runtime.spelling import Speller
from serving.gate import Gate
from serving.logprobs import FIELDS, CompletionLogprobs, chat_logprob
from tests.unit.serving.asgi import ask, complete

pytestmark = pytest.mark.unit


def merged(events: list[Any], choice: int) -> dict[str, list[Any]]:
    own = [each for event in events for each in event["choices"] if each["index"] == choice and each["logprobs"]]
    return {name: [value for each in own for value in each["logprobs"][name]] for name in FIELDS}


def test_a_stream_has_the_entries_of_the_whole(app: Gate) -> None:
    fields = {"prompt": ["x", "xy"], "max_tokens": 5, "logprobs": 2, "echo": True, "n": 2, "seed": 1, "temperature": 0}
    whole = complete(app, **fields).json()["choices"]
    *events, done = complete(app, stream=True, **fields).events()
    assert done == "[DONE]"
    for choice in range(4):
        entries = whole[choice]["logprobs"]
        assert merged(events, choice) == entries
        text = whole[choice]["text"]
        assert [text[offset] for offset in entries["text_offset"]] == entries["tokens"]
        assert entries["token_logprobs"][0] is None
        assert entries["top_logprobs"][0] is None
        rows = list(zip(entries["tokens"], entries["token_logprobs"], entries["top_logprobs"], strict=True))
        assert all(top[token] == value for token, value, top in rows[1:])


def test_without_an_echo_offsets_begin_with_the_text(app: Gate) -> None:
    (choice,) = complete(app, prompt="x", max_tokens=4, logprobs=0).json()["choices"]
    assert choice["logprobs"]["text_offset"] == [0, 1, 2, 3]
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"] == TALE[1:5]
    assert all(len(top) == 1 for top in choice["logprobs"]["top_logprobs"])


def test_the_end_of_a_text_is_scored_and_not_counted(app: Gate) -> None:
    answer = complete(app, prompt="x", max_tokens=3, logprobs=0, temperature=0, logit_bias={str(END): 100}).json()
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("", "stop")
    assert choice["logprobs"]["tokens"] == ["<end>"]
    assert choice["logprobs"]["token_logprobs"][0] < -1  # the model's own thought, before the bias
    assert answer["usage"]["completion_tokens"] == 0


def test_a_chat_has_an_object_a_token(app: Gate) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "logprobs": True, "top_logprobs": 2}
    (choice,) = ask(app, "POST", "/v1/chat/completions", body).json()["choices"]
    entries = choice["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == choice["message"]["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in entries).decode() == choice["message"]["content"]
    assert [len(entry["top_logprobs"]) for entry in entries] == [2, 2, 2]
    assert all(entry["top_logprobs"][0]["token"] == entry["token"] for entry in entries)


def test_parts_of_a_character_show_their_bytes_and_take_no_room() -> None:
    tracker = CompletionLogprobs(Speller(byte_tokenizer(pairs=False)))
    ids = [*"a€b".encode()]
    entry = tracker.prompt(ids, "a€b", [None, -1.0, -2.0, -3.0, -math.inf], [(), *[((98, -0.5),)] * 4])
    assert entry["tokens"] == ["a", "bytes:\\xe2", "bytes:\\x82", "bytes:\\xac", "b"]
    assert entry["text_offset"] == [0, 1, 1, 1, 2]
    # JSON has no infinity.
    assert entry["token_logprobs"] == [None, -1.0, -2.0, -3.0, -9999.0]
    assert entry["top_logprobs"][1] == {"b": -0.5, "bytes:\\xe2": -1.0}
    assert tracker.token(Token(99, "c", logprob=-1.0))["text_offset"] == [3]
    assert chat_logprob(Speller(byte_tokenizer(pairs=False)), Token(0xE2, "", logprob=-1.0))["bytes"] == [0xE2]


def test_a_space_that_is_not_in_the_text_shifts_nothing() -> None:
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "\u2581Once": 1, "\u2581upon": 2}, unk_token="<s>"))
    tokenizer.normalizer = normalizers.Prepend("\u2581")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(["<s>"])
    tracker = CompletionLogprobs(Speller(tokenizer))
    entry = tracker.prompt([0, 1, 2], "Once upon", [None, -1.0, -1.0], [(), (), ()])
    assert entry["tokens"] == ["<s>", " Once", " upon"]
    assert entry["text_offset"] == [0, 0, 4]
