"""Embeddings over the app: encodings, token ids, shortening, truncation, limits, failures."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from serving.embedding_schemas import EmbeddingsResponse
from serving.gate import Gate
from tests.unit.serving.asgi import Reply, ask
from tests.unit.serving.conftest import MakeApp

pytestmark = pytest.mark.unit


def embed(app: Gate, texts: Any, **fields: Any) -> Reply:
    return ask(app, "POST", "/v1/embeddings", {"input": texts, **fields})


def vectors(reply: Reply) -> np.ndarray:
    assert reply.status == 200, reply.body
    assert EmbeddingsResponse.model_validate_json(reply.body)
    return np.array([item["embedding"] for item in reply.json()["data"]], np.float32)


def test_texts_become_vectors_of_length_one_in_their_order(app: Gate) -> None:
    reply = embed(app, ["a b", "b a", "c"])
    rows = vectors(reply)
    assert rows.shape == (3, 64)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1)
    assert rows[0] @ rows[1] == pytest.approx(1)
    assert rows[0] @ rows[2] == pytest.approx(0)
    answer = reply.json()
    assert (answer["object"], answer["model"]) == ("list", "embedding")
    assert [(item["object"], item["index"]) for item in answer["data"]] == [("embedding", n) for n in range(3)]
    assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7}


def test_one_text_is_a_list_of_one(app: Gate) -> None:
    assert (vectors(embed(app, "a b")) == vectors(embed(app, ["a b"]))).all()
    assert vectors(embed(app, "")).shape == (1, 64)  # an empty text is a text


def test_a_vector_without_direction_stays_one(app: Gate) -> None:
    assert vectors(embed(app, " ")).tolist() == [[0.0] * 64]


def test_base64_holds_the_very_floats(app: Gate) -> None:
    texts = ["a b c", "d e f g"]
    data = embed(app, texts, encoding_format="base64").json()["data"]
    decoded = np.array([np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in data])
    assert (decoded == vectors(embed(app, texts, encoding_format="float"))).all()


def test_token_ids_are_taken_for_their_text(app: Gate) -> None:
    text = vectors(embed(app, ["a b", "c"]))
    assert (vectors(embed(app, [list(b"a b"), list(b"c")])) == text).all()
    assert (vectors(embed(app, list(b"a b"))) == text[:1]).all()


@pytest.mark.parametrize("token", [258, 10**30])
def test_an_id_that_is_no_token_is_400(app: Gate, token: int) -> None:
    reply = embed(app, [[97], [97, token]])
    assert (reply.status, reply.error["param"]) == (400, "input[1]")
    assert str(token) in reply.error["message"]


def test_fewer_dimensions_are_the_first_ones_at_length_one(app: Gate) -> None:
    whole = vectors(embed(app, "a b c d e f g h"))[0]
    short = vectors(embed(app, "a b c d e f g h", dimensions=40))[0]
    assert short == pytest.approx(whole[:40] / np.linalg.norm(whole[:40]))
    assert len(vectors(embed(app, "a", dimensions=64))[0]) == 64
    reply = embed(app, "a", dimensions=65)
    assert (reply.status, reply.error["param"]) == (400, "dimensions")
    assert "65" in reply.error["message"]
    assert "64" in reply.error["message"]


def test_what_is_cut_is_told_or_refused(app: Gate) -> None:
    items = embed(app, ["a", "b " * 150]).json()["data"]
    assert [(item["truncated"], item["dropped_tokens"]) for item in items] == [(False, 0), (True, 44)]
    for texts in (["a", "b " * 150], [[97], [98, 32] * 150]):
        reply = embed(app, texts, truncate=False)
        assert (reply.status, reply.error["param"]) == (422, "input[1]")
        assert "300 tokens" in reply.error["message"]


@pytest.mark.parametrize("texts", [[], {}, None, 1, [1.5], [True], [[]], ["a", 1], ["a", [1]], [[1], "a"], [-1]])
def test_what_is_no_text_is_400(app: Gate, texts: object) -> None:
    reply = embed(app, texts)
    assert (reply.status, reply.error["param"]) == (400, "input")


def test_fields_are_checked(app: Gate) -> None:
    assert embed(app, "a", user="me").status == 200
    for name, value in (("encoding_format", "int8"), ("dimensions", 0), ("prompt_name", "query")):
        reply = embed(app, "a", **{name: value})
        assert (reply.status, reply.error["param"]) == (400, name)


def test_too_many_texts_are_413(make_app: MakeApp) -> None:
    app, _ = make_app(max_items=2)
    reply = embed(app, ["a"] * 3)
    assert (reply.status, reply.error["param"]) == (413, "input")
    assert "3 input" in reply.error["message"]


def test_a_text_that_fails_is_named(app: Gate) -> None:
    reply = embed(app, ["a", "<poison>"])
    assert (reply.status, reply.error["code"], reply.error["param"]) == (500, "backend_failed", "input[1]")


def test_many_vectors_are_whole_json(app: Gate) -> None:
    texts = [f"word{number} and more" for number in range(300)]
    rows = vectors(embed(app, texts))
    assert rows.shape == (300, 64)
    for place in (0, 299):
        assert (rows[place] == vectors(embed(app, texts[place]))[0]).all()


def test_the_call_is_accounted_for(make_app: MakeApp, caplog: pytest.LogCaptureFixture) -> None:
    app, _ = make_app(access_log=True)
    with caplog.at_level("INFO", "sluice.access"):
        timing = embed(app, ["a b", "c"]).headers["server-timing"]
    stages = dict(part.split(";dur=") for part in timing.split(", "))
    assert float(stages["compute"]) > 0
    line = json.loads(caplog.messages[-1])
    assert (line["route"], line["model"], line["items"], line["tokens"]) == ("/v1/embeddings", "embedding:v1", 2, 4)
