"""Match and rerank over the app: shapes, order, thresholds, truncation, failures of one item, deadlines."""

from __future__ import annotations

import pytest

from serving.gate import Gate
from serving.schemas import MatchResponse, RerankResponse, ScoreResponse
from tests.unit.serving.asgi import ask, match
from tests.unit.serving.conftest import MakeApp

pytestmark = pytest.mark.unit


def test_pairs_come_back_in_order_with_score_label_and_counts(app: Gate) -> None:
    reply = match(app, ("a b", "A B"), ("a b", "c d"))
    answer = MatchResponse.model_validate_json(reply.body)
    same, different = (result.model_dump() for result in answer.results)
    assert (same["index"], same["label"], same["match"]) == (0, "same", True)
    assert (different["index"], different["label"], different["match"]) == (1, "different", False)
    assert same["score"] > 0.9 > 0.1 > different["score"]
    assert answer.model == "matching"
    assert answer.usage.prompt_tokens == 2 * 7  # a byte a token, and the separator


def test_a_threshold_decides_what_is_a_match(app: Gate) -> None:
    pair = ("one two three", "one two four")
    score = match(app, pair).json()["results"][0]["score"]
    assert match(app, pair, threshold=score).json()["results"][0]["match"] is True
    assert match(app, pair, threshold=min(1.0, score + 0.01)).json()["results"][0]["match"] is False


def test_long_texts_are_cut_and_say_so(app: Gate) -> None:
    reply = match(app, ("a " * 400, "b"), ("a", "b"))
    results = reply.json()["results"]
    assert [result["truncated"] for result in results] == [True, False]
    assert [result["dropped_tokens"] for result in results] == [802 - 256, 0]


def test_refused_truncation_is_422_with_the_exact_count(app: Gate) -> None:
    reply = match(app, ("a", "b"), ("a" * 300, "b" * 50), truncate=False)
    assert reply.status == 422
    assert reply.error["code"] == "too_many_tokens"
    assert reply.error["param"] == "pairs[1]"
    assert "351 tokens" in reply.error["message"]
    assert "256" in reply.error["message"]


def test_an_item_that_fails_leaves_its_neighbours_alone(app: Gate) -> None:
    reply = match(app, ("a", "a"), ("<poison>", "b"), ("c", "c"))
    assert reply.status == 200
    first, bad, last = reply.json()["results"]
    assert first["match"]
    assert last["match"]
    assert bad["index"] == 1
    assert bad["error"]["code"] == "backend_failed"
    assert "RuntimeError" not in reply.body.decode()
    assert MatchResponse.model_validate_json(reply.body)


def test_empty_texts_are_texts(app: Gate) -> None:
    assert match(app, ("", "")).status == 200


def test_text_as_such_reaches_the_model(app: Gate) -> None:
    odd = "\x00 \u202e 𝔘 é e\u0301 \ufeff"
    assert match(app, (odd, odd)).json()["results"][0]["match"]


def test_stage_timings_are_in_the_header(app: Gate) -> None:
    timing = match(app, ("a", "b")).headers["server-timing"]
    stages = dict(part.split(";dur=") for part in timing.split(", "))
    assert list(stages) == ["total", "tokenize", "queue", "compute"]
    assert float(stages["total"]) >= float(stages["compute"]) > 0


def test_too_many_items_are_413(make_app: MakeApp) -> None:
    app, _ = make_app(max_items=2)
    assert match(app, ("a", "b"), ("a", "b")).status == 200
    reply = match(app, *[("a", "b")] * 3)
    assert (reply.status, reply.error["code"], reply.error["param"]) == (413, "limit_exceeded", "pairs")
    assert "3 pairs" in reply.error["message"]
    assert "takes 2" in reply.error["message"]
    reply = ask(app, "POST", "/v1/rerank", {"query": "a", "documents": ["b"] * 3})
    assert (reply.status, reply.error["param"]) == (413, "documents")


DOCUMENTS = ["cat dog", "one two three", "one two", "one"]


def test_documents_are_ranked(app: Gate) -> None:
    for path in ("/v1/rerank", "/v2/rerank"):
        reply = ask(app, "POST", path, {"query": "one two", "documents": DOCUMENTS})
        answer = reply.json()
        assert RerankResponse.model_validate_json(reply.body)
        assert [result["index"] for result in answer["results"]] == [2, 1, 3, 0]
        scores = [result["relevance_score"] for result in answer["results"]]
        assert scores == sorted(scores, reverse=True)
        assert "document" not in answer["results"][0]
        assert answer["usage"]["total_tokens"] > 0


def test_top_n_and_return_documents(app: Gate) -> None:
    value = {"query": "one two", "documents": [{"text": "x"}, "one two"], "top_n": 1, "return_documents": True}
    answer = ask(app, "POST", "/v1/rerank", value).json()
    assert [(result["index"], result["document"]) for result in answer["results"]] == [(1, {"text": "one two"})]
    many = ask(app, "POST", "/v1/rerank", {"query": "a", "documents": ["b"], "top_n": 10**30})
    assert len(many.json()["results"]) == 1


def test_a_long_query_for_many_documents_is_413(make_app: MakeApp) -> None:
    app, _ = make_app(max_body_bytes=10_000)
    reply = ask(app, "POST", "/v1/rerank", {"query": "a" * 500, "documents": ["b"] * 20})
    assert (reply.status, reply.error["param"]) == (413, "query")
    assert "10020 characters" in reply.error["message"]
    assert ask(app, "POST", "/v1/rerank", {"query": "a" * 500, "documents": ["b"] * 19}).status == 200


def test_documents_are_cut_to_the_tokens_that_are_asked_for(app: Gate) -> None:
    value = {"query": "one two", "documents": ["one two three", "one"], "max_tokens_per_doc": 7}
    answer = ask(app, "POST", "/v2/rerank", value).json()
    best, other = answer["results"]
    assert (best["index"], best["truncated"], best["dropped_tokens"]) == (0, True, 6)
    assert best["relevance_score"] > 0.9  # what was cut is not scored
    assert (other["truncated"], other["dropped_tokens"]) == (False, 0)
    assert answer["usage"]["total_tokens"] == (7 + 1 + 7) + (7 + 1 + 3)


@pytest.mark.parametrize("model", ["matching", "embedding"])
def test_rerank_in_strict_mode_is_422_and_names_the_document_or_the_query(app: Gate, model: str) -> None:
    value = {"model": model, "query": "a", "documents": ["b", "c" * 300], "truncate": False}
    reply = ask(app, "POST", "/v1/rerank", value)
    assert (reply.status, reply.error["param"]) == (422, "documents[1]")
    assert f"{302 if model == 'matching' else 300} tokens" in reply.error["message"]
    if model == "embedding":
        reply = ask(app, "POST", "/v1/rerank", value | {"query": "a" * 300})
        assert (reply.status, reply.error["param"]) == (422, "query")


@pytest.mark.parametrize("field", ["rank_fields", "max_chunks_per_doc", "priority"])
def test_what_rerank_does_not_do_is_refused_by_name(app: Gate, field: str) -> None:
    reply = ask(app, "POST", "/v1/rerank", {"query": "a", "documents": ["b"], field: 1})
    assert (reply.status, reply.error["param"]) == (400, field)


def test_a_bi_encoder_matches_and_reranks_by_cosine(app: Gate) -> None:
    same, half, different = match(app, ("a b", "b a"), ("a b", "a c"), ("a", "b"), model="embedding").json()["results"]
    assert (round(same["score"], 6), round(half["score"], 6), round(different["score"], 6)) == (1, 0.75, 0.5)
    assert [result["match"] for result in (same, half, different)] == [True, True, True]
    value = {"model": "embedding", "query": "one two", "documents": DOCUMENTS}
    reply = ask(app, "POST", "/v1/rerank", value)
    assert RerankResponse.model_validate_json(reply.body)
    assert [result["index"] for result in reply.json()["results"]] == [2, 1, 3, 0]


def test_a_bi_encoder_answers_where_there_is_no_cross_encoder(make_app: MakeApp) -> None:
    app, _ = make_app(kinds=("embedding",))
    assert match(app, ("a", "a")).json()["model"] == "embedding"


def test_equal_documents_keep_their_order_and_failed_ones_come_last(app: Gate) -> None:
    value = {"query": "a", "documents": ["<poison>", "a", "a", "b"]}
    results = ask(app, "POST", "/v1/rerank", value).json()["results"]
    assert [result["index"] for result in results] == [1, 2, 3, 0]
    assert results[-1]["error"]["code"] == "backend_failed"


def test_a_deadline_that_passes_in_compute_is_504(make_app: MakeApp) -> None:
    app, _ = make_app(matching_model="slow-matching", batch_items=1)
    reply = match(app, *[("a", str(n)) for n in range(8)], headers={"X-Request-Deadline-Ms": "120"})
    # Either the engine foresees it (429) or time runs out on the way; both are the contract.
    assert reply.status in (429, 504)
    assert reply.error["code"] in ("overloaded", "deadline_exceeded")
    assert reply.error["retryable"] is True


@pytest.mark.parametrize("value", ["", "0", "-1", "1.5", "soon", "1e3", "9" * 30])
def test_a_bad_deadline_is_400(app: Gate, value: str) -> None:
    reply = match(app, ("a", "b"), headers={"X-Request-Deadline-Ms": value})
    assert (reply.status, reply.error["param"]) == (400, "X-Request-Deadline-Ms")


@pytest.mark.parametrize(
    ("ones", "others", "scores"),
    [("a", "a", [1]), (["a"], ["a", "b"], [1, 0]), ("a", ["b", "a"], [0, 1]), (["a", "b"], ["b", "b"], [0, 1])],
)
def test_texts_are_scored_one_to_one_one_to_many_many_to_many(
    app: Gate, ones: object, others: object, scores: list[int]
) -> None:
    for model in ("matching", "embedding"):  # the latter: by the cosine as it is
        reply = ask(app, "POST", "/score", {"model": model, "text_1": ones, "text_2": others})
        answer = ScoreResponse.model_validate_json(reply.body)
        assert [round(item.score) for item in answer.data if not hasattr(item, "error")] == scores  # type: ignore[union-attr]
        assert answer.model == model


def test_texts_that_do_not_go_together_are_400(app: Gate) -> None:
    for ones, others in ((["a", "b"], ["a"]), (["a"] * 3, ["a"] * 2), ([], "a"), ("a", [])):
        reply = ask(app, "POST", "/score", {"text_1": ones, "text_2": others})
        assert reply.status == 400
        assert reply.error["param"] in ("text_1", "text_2")
    reply = ask(app, "POST", "/score", {"text_1": "a", "text_2": ["b", "b" * 300], "truncate": False})
    assert (reply.status, reply.error["param"]) == (422, "text_2[1]")
