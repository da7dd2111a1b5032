"""text-embeddings-inference's routes: its shapes, statuses, error body and headers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest

from serving.gate import Gate
from tests.unit.serving.asgi import Reply, ask, exchange
from tests.unit.serving.conftest import MakeApp

pytestmark = pytest.mark.unit
QUERY = {"query": "one two", "texts": ["cat dog", "one two three", "one two"]}


def post(app: Gate, path: str, value: Any) -> Any:
    reply = ask(app, "POST", path, value)
    assert reply.status == 200, reply.body
    return reply.json()


def refused(app: Gate, path: str, value: Any, status: int, kind: str) -> str:
    reply = ask(app, "POST", path, value)
    error = reply.json()
    assert (reply.status, error.get("error_type")) == (status, kind), error
    assert set(error) == {"error", "error_type"}
    message: str = error["error"]
    return message


def test_rerank_sorts_and_returns_what_is_asked_for(app: Gate) -> None:
    ranks = post(app, "/rerank", QUERY)
    assert [rank["index"] for rank in ranks] == [2, 1, 0]
    assert all(set(rank) == {"index", "score"} and 0 <= rank["score"] <= 1 for rank in ranks)
    raw = post(app, "/rerank", QUERY | {"raw_scores": True, "return_text": True})
    assert [rank["text"] for rank in raw] == ["one two", "one two three", "cat dog"]
    assert [rank["score"] for rank in raw] == pytest.approx([4, 8 * (2 / 3 - 0.5), -4])  # the fake model's logits


def test_predict_answers_every_class_of_a_text_a_pair_or_a_list(app: Gate) -> None:
    pair = post(app, "/predict", {"inputs": ["a b", "b a"]})
    assert [each["label"] for each in pair] == ["same", "different"]
    assert sum(each["score"] for each in pair) == pytest.approx(1)
    assert post(app, "/predict", {"inputs": [["a b", "b a"]]}) == [pair]
    mixed = post(app, "/predict", {"inputs": [["a", "b"], ["a"]], "raw_scores": True})
    assert mixed[0] == [{"score": 0.0, "label": "different"}, {"score": -4.0, "label": "same"}]
    assert len(mixed) == 2
    assert post(app, "/predict", {"inputs": "a"}) == post(app, "/predict", {"inputs": ["a"]})
    assert len(post(app, "/predict", {"inputs": "a", "parameters": {"top_k": 1}})) == 1


def test_similarity_is_the_cosine(app: Gate) -> None:
    inputs = {"source_sentence": "a b", "sentences": ["b a", "a c", "d"]}
    assert post(app, "/similarity", {"inputs": inputs}) == pytest.approx([1, 0.5, 0])


def test_embed_normalises_unless_told_not_to(app: Gate) -> None:
    (vector,) = post(app, "/embed", {"inputs": "a b"})
    assert np.linalg.norm(vector) == pytest.approx(1)
    (raw,) = post(app, "/embed", {"inputs": "a b", "normalize": False})
    assert sorted(raw)[-2:] == [1, 1]
    assert post(app, "/embed", {"inputs": [list(b"a b"), list(b"c")]})[0] == vector
    assert len(post(app, "/embed", {"inputs": ["a", "b"], "dimensions": 40})[1]) == 40


def test_the_end_that_does_not_fit_is_chosen(app: Gate) -> None:
    text = "a " * 128 + "b " * 128
    right, left, a, b = (
        post(app, "/embed", {"inputs": inputs, "truncation_direction": side})[0]
        for inputs, side in ((text, "right"), (text, "left"), ("a", "right"), ("b", "right"))
    )
    assert (right, left) == (a, b)


def test_tokenize_shows_where_each_token_stands(app: Gate) -> None:
    (tokens,) = post(app, "/tokenize", {"inputs": "ab"})
    assert tokens == [
        {"id": 97, "text": "a", "special": False, "start": 0, "stop": 1},
        {"id": 98, "text": "b", "special": False, "start": 1, "stop": 2},
    ]
    assert [len(row) for row in post(app, "/tokenize", {"inputs": ["", "abc"]})] == [0, 3]
    message = refused(app, "/tokenize", {"inputs": ["a" * 100_001]}, 413, "Validation")
    assert "100001 characters" in message


def test_info_tells_the_limits(app: Gate, make_app: MakeApp) -> None:
    info = ask(app, "GET", "/info").json()
    assert (info["model_id"], info["max_input_length"], info["max_client_batch_size"]) == ("matching:v1", 256, 1024)
    assert info["model_type"]["reranker"]["id2label"] == {"0": "different", "1": "same"}
    only, _ = make_app(kinds=("embedding",))
    assert "embedding" in ask(only, "GET", "/info").json()["model_type"]


def test_the_stages_are_in_the_headers(app: Gate) -> None:
    headers = ask(app, "POST", "/embed", {"inputs": ["abc", "a" * 300]}).headers
    assert (headers["x-compute-characters"], headers["x-compute-tokens"]) == ("303", "259")
    assert headers["x-dropped-tokens"] == "44"
    for stage in ("compute", "total", "tokenization", "queue", "inference"):
        assert headers[f"x-{stage}-time"].isdigit()
    assert "compute;dur=" in headers["server-timing"]


@pytest.mark.parametrize(
    ("path", "value", "status", "kind", "words"),
    [
        ("/rerank", {"query": "a", "texts": []}, 400, "Empty", "texts"),
        ("/predict", {"inputs": []}, 400, "Empty", "inputs"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}, 400, "Empty", "sentences"),
        ("/embed", {"inputs": []}, 400, "Empty", "inputs"),
        ("/tokenize", {"inputs": []}, 400, "Empty", "inputs"),
        ("/rerank", {"query": "a"}, 422, "Validation", "texts"),
        ("/predict", {"inputs": [["a", "b", "c"]]}, 422, "Validation", "inputs"),
        ("/embed", {"inputs": "a", "prompt_name": "query"}, 422, "Validation", "prompt_name"),
        ("/embed", {"inputs": "a", "dimensions": 65}, 422, "Validation", "64"),
        ("/embed", {"inputs": ["a", "b" * 300], "truncate": False}, 422, "Validation", "inputs[1] has 300 tokens"),
        ("/rerank", {"query": "a", "texts": ["b" * 300], "truncate": False}, 422, "Validation", "texts[0] has 302"),
        ("/predict", {"inputs": [["a"], ["b" * 300]], "truncate": False}, 422, "Validation", "inputs[1] has 300"),
        ("/rerank", {"query": "a", "texts": ["<poison>"]}, 424, "Backend", "The model failed"),
        ("/embed", {"inputs": "<poison>"}, 424, "Backend", "The model failed"),
        ("/predict", {"inputs": "<poison>"}, 424, "Backend", "The model failed"),
        ("/rerank", {"query": "a", "texts": ["b"] * 1025}, 413, "Validation", "1025 texts"),
    ],
)
def test_what_goes_wrong_has_its_status_and_body(
    app: Gate, path: str, value: Any, status: int, kind: str, words: str
) -> None:
    assert words in refused(app, path, value, status, kind)


def test_a_route_that_the_model_cannot_answer_is_400(make_app: MakeApp) -> None:
    pairs, _ = make_app(kinds=("matching",))
    assert "kind embedding" in refused(pairs, "/embed", {"inputs": "a"}, 400, "Validation")
    texts, _ = make_app(kinds=("embedding",))
    assert "kind matching" in refused(texts, "/predict", {"inputs": "a"}, 400, "Validation")
    assert [rank["index"] for rank in post(texts, "/rerank", QUERY)] == [2, 1, 0]
    raw = post(texts, "/rerank", QUERY | {"raw_scores": True})
    assert [rank["score"] for rank in raw] == pytest.approx([1, (2 / 3) ** 0.5, 0])


def test_the_root_answers_by_the_shape_of_the_body(app: Gate, make_app: MakeApp) -> None:
    similarity = {"inputs": {"source_sentence": "a", "sentences": ["a"]}, "parameters": {}}
    for value, path in (
        ({"inputs": "a"}, "/embed"),
        ({"inputs": ["a", "b"]}, "/embed"),
        ({"inputs": [[97]]}, "/embed"),
        ({"inputs": "a", "parameters": {}}, "/predict"),
        ({"inputs": [["a", "b"]]}, "/predict"),
        (QUERY, "/rerank"),
    ):
        assert post(app, "/", value) == post(app, path, value)
    assert post(app, "/", similarity) == pytest.approx([1])
    pairs, _ = make_app(kinds=("matching",))
    assert post(pairs, "/", {"inputs": ["a", "a"]})[0]["label"] == "same"
    assert "inputs" in refused(app, "/", {"nothing": 1}, 422, "Validation")
    assert ask(app, "PUT", "/").headers["allow"] == "GET, POST"
    assert ask(app, "GET", "/").headers["content-type"].startswith("text/html")


def test_posting_to_the_root_needs_a_key(make_app: MakeApp) -> None:
    app, _ = make_app(api_keys="secret")
    assert ask(app, "POST", "/", {"inputs": "a"}).status == 401
    assert ask(app, "GET", "/").status == 200


def test_too_much_is_429_with_retry_after(make_app: MakeApp) -> None:
    app, _ = make_app(embedding_model="slow-embedding", batch_items=1, queue_items=4)

    async def flood() -> list[Reply]:
        bodies = [{"inputs": f"text {number}"} for number in range(12)]
        return await asyncio.gather(*(exchange(app, "POST", "/embed", body) for body in bodies))

    replies = asyncio.run(flood())
    shed = [reply for reply in replies if reply.status == 429]
    assert {reply.status for reply in replies} == {200, 429}
    assert all(reply.json()["error_type"] == "Overloaded" for reply in shed)
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in shed)


ROUTES = [
    ("/rerank", {"query": "a", "texts": [str(number) for number in range(50)]}, "matching"),
    ("/predict", {"inputs": [[str(number)] for number in range(50)]}, "matching"),
    ("/similarity", {"inputs": {"source_sentence": "a", "sentences": [str(n) for n in range(50)]}}, "embedding"),
    ("/embed", {"inputs": [str(number) for number in range(50)]}, "embedding"),
    ("/v1/embeddings", {"input": [str(number) for number in range(50)]}, "embedding"),
]


@pytest.mark.parametrize(("path", "value", "kind"), ROUTES)
def test_a_client_that_leaves_ends_its_work_and_is_accounted_for(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture, path: str, value: Any, kind: str
) -> None:
    name = f"slow-{kind}"
    app, room = make_app(
        matching_model="slow-matching", embedding_model="slow-embedding", batch_items=1, access_log=True
    )
    served = room.catalogue.get(name)

    async def leave() -> None:
        gone = asyncio.Event()
        request = asyncio.create_task(exchange(app, "POST", path, value, leave=gone))
        while not served.engine.load().running_items:
            await asyncio.sleep(0.005)
        assert served.leases.held == 1
        gone.set()
        assert (await request).status == 0
        assert served.leases.held == 0
        while served.engine.load().running_items:
            await asyncio.sleep(0.005)
        assert served.engine.load().queued_items == 0

    with caplog.at_level("INFO", "sluice.access"):
        asyncio.run(asyncio.wait_for(leave(), 20))
    line = json.loads(caplog.messages[-1])
    assert (line["route"], line["status"], line["model"], line["items"]) == (path, 499, f"{name}:v1", 50)
    assert line["tokens"] > 0
