"""What every request goes through: ids, keys, limits, the one error body, headers, counts, the log line."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from serving.gate import Gate
from serving.schemas import ErrorBody, ModelList
from tests.unit.serving.asgi import Reply, ask, exchange, match
from tests.unit.serving.conftest import MakeApp

pytestmark = pytest.mark.unit
PAIR = {"pairs": [{"text_a": "a", "text_b": "b"}]}


def refused(reply: Reply, status: int, code: str) -> dict[str, object]:
    """The error of a reply that must be refused in the one shape."""
    assert reply.status == status, reply.body
    detail = ErrorBody.model_validate_json(reply.body).error
    assert detail.code == code
    assert detail.request_id == reply.headers["x-request-id"]
    assert reply.headers["content-type"] == "application/json"
    assert int(reply.headers["content-length"]) == len(reply.body)
    return detail.model_dump()


def test_unknown_paths_and_methods_have_our_body(app: Gate) -> None:
    for path in ("/nope", "/v1", "/v1/match/", "/v1/models/", "/docs/assets/other.js", "/docs/assets/../app.py", "//"):
        refused(ask(app, "GET", path), 404, "not_found")
    for method, path, allow in (("GET", "/v1/match", "POST"), ("POST", "/livez", "GET"), ("DELETE", "/", "GET, POST")):
        reply = ask(app, method, path)
        refused(reply, 405, "method_not_allowed")
        assert reply.headers["allow"] == allow


def test_bodies_that_are_no_json_object(app: Gate) -> None:
    for body in (
        b"",
        b"  ",
        b"{",
        b'{"pairs": [',
        b"\xff\xfe",
        b'{"pairs": "\xff"}',
        b'{"a": "\\ud800"}',
        b"[" * 10_000,
    ):
        refused(ask(app, "POST", "/v1/match", parts=[body]), 400, "malformed_json")
    for body in (b"[]", b"null", b'"text"', b"3"):
        refused(ask(app, "POST", "/v1/match", parts=[body]), 400, "invalid_input")


def test_the_content_type_must_be_json_or_absent(app: Gate) -> None:
    body = [json.dumps(PAIR).encode()]
    for declared in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "é"):
        reply = ask(app, "POST", "/v1/match", parts=body, headers={"content-type": declared})
        refused(reply, 415, "unsupported_media_type")
    for declared in ("application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json", ""):
        assert ask(app, "POST", "/v1/match", parts=body, headers={"content-type": declared}).status == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ('{"pairs": [{"text_a": "a", "text_b": "b"}], "treshold": 1}', "treshold"),
        ('{"pairs": [{"text_a": "a", "text_b": "b", "c": 1}]}', "pairs[0].c"),
        ('{"pairs": [{"text_a": "a"}]}', "pairs[0].text_b"),
        ('{"pairs": [{"text_a": "a", "text_b": "b"}, {"text_a": 1, "text_b": "b"}]}', "pairs[1].text_a"),
        ('{"pairs": []}', "pairs"),
        ('{"pairs": {}}', "pairs"),
        ('{"pairs": null}', "pairs"),
        ("{}", "pairs"),
        ('{"pairs": [{"text_a": "a", "text_b": "b"}], "threshold": NaN}', "threshold"),
        ('{"pairs": [{"text_a": "a", "text_b": "b"}], "threshold": Infinity}', "threshold"),
        ('{"pairs": [{"text_a": "a", "text_b": "b"}], "threshold": 1e400}', "threshold"),
        ('{"pairs": [{"text_a": "a", "text_b": "b"}], "threshold": 1.01}', "threshold"),
        ('{"pairs": [{"text_a": "a", "text_b": "b"}], "truncate": 1}', "truncate"),
        ('{"pairs": [{"text_a": "a", "text_b": "b"}], "model": 7}', "model"),
    ],
)
def test_a_wrong_field_is_named(app: Gate, body: str, param: str) -> None:
    error = refused(ask(app, "POST", "/v1/match", parts=[body.encode()]), 400, "invalid_input")
    assert error["param"] == param
    assert param in str(error["message"])


def test_messages_quote_long_values_shortly(app: Gate) -> None:
    error = refused(ask(app, "POST", "/v1/match", {"pairs": "x" * 10_000}), 400, "invalid_input")
    assert len(str(error["message"])) < 300
    deep: object = "x"
    for _ in range(150):
        deep = [deep]
    refused(ask(app, "POST", "/v1/match", {"pairs": deep}), 400, "invalid_input")


def test_a_great_many_problems_are_told_in_one_sentence(app: Gate) -> None:
    # Telling each of a million would take seconds of the event loop.
    many = {f"f{number}": 1 for number in range(500)}
    error = refused(ask(app, "POST", "/v1/match", many), 400, "invalid_input")
    assert "501 problems" in str(error["message"])
    error = refused(ask(app, "POST", "/v1/match", {"pairs": [many]}), 400, "invalid_input")
    assert "502 problems" in str(error["message"])
    # A list stops at its first bad item.
    error = refused(ask(app, "POST", "/v1/match", {"pairs": [1] * 500}), 400, "invalid_input")
    assert error["param"] == "pairs[0]"


def test_an_unknown_model_is_404_and_says_what_is_served(app: Gate) -> None:
    error = refused(ask(app, "POST", "/v1/match", {**PAIR, "model": "nope"}), 404, "model_not_found")
    assert "matching (matching)" in str(error["message"])
    assert "generation (generation)" in str(error["message"])
    refused(ask(app, "GET", "/v1/models/nope"), 404, "model_not_found")


def test_a_model_of_a_kind_that_the_route_cannot_use_is_400(app: Gate) -> None:
    error = refused(ask(app, "POST", "/v1/match", {**PAIR, "model": "generation"}), 400, "wrong_kind")
    assert error["param"] == "model"
    assert "'generation' is of kind generation; this route needs kind matching or embedding" in str(error["message"])
    error = refused(ask(app, "POST", "/v1/embeddings", {"input": "a", "model": "matching"}), 400, "wrong_kind")
    assert "'matching' is of kind matching; this route needs kind embedding" in str(error["message"])


def test_a_kind_that_is_not_loaded_is_400(make_app: MakeApp) -> None:
    app, _ = make_app(kinds=("generation",))
    error = refused(ask(app, "POST", "/v1/match", PAIR), 400, "wrong_kind")
    assert "needs a model of kind matching or embedding; served: generation (generation)" in str(error["message"])


def test_models_are_listed_and_found_by_id_and_tag(app: Gate) -> None:
    reply = ask(app, "GET", "/v1/models")
    listed = ModelList.model_validate_json(reply.body).data
    assert [(card.id, card.kind, card.precision, card.stage) for card in listed] == [
        ("matching", "matching", "fp32", "production"),
        ("slow-matching", "matching", "fp32", "production"),
        ("embedding", "embedding", "fp32", "production"),
        ("slow-embedding", "embedding", "fp32", "production"),
        ("generation", "generation", "fp32", "production"),
        ("slow-generation", "generation", "fp32", "production"),
    ]
    assert listed[0].limits.max_tokens == 256
    assert [card.dimensions for card in listed] == [None, None, 64, 64, None, None]
    for name in ("matching", "matching:v1"):
        assert ask(app, "GET", f"/v1/models/{name}").json()["tag"] == "matching:v1"
        assert match(app, ("a", "b"), model=name).json()["model"] == "matching"


def test_request_ids_are_kept_cleaned_or_made(app: Gate) -> None:
    def id_for(given: str) -> str:
        return ask(app, "GET", "/livez", headers={"X-Request-ID": given}).headers["x-request-id"]

    assert id_for("job-7/a.b:c=d@e") == "job-7/a.b:c=d@e"
    assert id_for("a b\r\nset-cookie: x") == "abset-cookie:x"
    assert id_for("x" * 1000) == "x" * 128
    assert len(id_for("é!")) == 32
    assert id_for("") != id_for("")


def test_probes_and_head(app: Gate) -> None:
    for path in ("/livez", "/readyz", "/", "/docs", "/openapi.json", "/metrics", "/docs/assets/swagger-ui.css"):
        assert ask(app, "GET", path).status == 200, path
        assert ask(app, "HEAD", path).status == 200, path


@pytest.fixture(scope="module")
def locked(make_app: MakeApp) -> Gate:
    return make_app(api_keys="first-key, second-key")[0]


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer wrong", "Basic first-key", "first-key", "Bearer first-key2"]
)
def test_without_a_key_work_is_401(locked: Gate, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header}
    for method, path, value in (
        ("POST", "/v1/match", PAIR),
        ("POST", "/v1/completions", {}),
        ("GET", "/v1/models", None),
        ("GET", "/nope", None),
        ("GET", "/schema.json", None),
        ("POST", "/bentoml/match", PAIR),
    ):
        reply = ask(locked, method, path, value, headers=headers)
        refused(reply, 401, "unauthorized")
        assert reply.headers["www-authenticate"] == "Bearer"
        assert b"first-key" not in reply.body.replace(b"`Authorization: Bearer KEY`", b"")


def test_with_a_key_work_is_done_and_pages_stay_open(locked: Gate) -> None:
    for header in ("Bearer first-key", "bearer second-key", "Bearer  second-key "):
        assert match(locked, ("a", "b"), headers={"authorization": header}).status == 200
    for path in ("/", "/docs", "/openapi.json", "/livez", "/readyz", "/metrics"):
        assert ask(locked, "GET", path).status == 200


def test_the_body_limit_holds_declared_or_chunked(make_app: MakeApp) -> None:
    app, _ = make_app(max_body_bytes=200)
    big = json.dumps({"pairs": [{"text_a": "a" * 300, "text_b": "b"}]}).encode()
    for parts, headers in (
        ([big], {"content-length": str(len(big))}),
        ([big], {}),
        ([big[:150], big[150:250], big[250:]], {}),
        ([big[:150], big[150:]], {}),
        ([b"x" * 100] * 50, {}),
        ([big], {"content-length": "20"}),
    ):
        reply = asyncio.run(asyncio.wait_for(exchange(app, "POST", "/v1/match", parts=parts, headers=headers), 5))
        error = refused(reply, 413, "limit_exceeded")
        assert "200" in str(error["message"])
    assert match(app, ("a", "b")).status == 200


def test_a_body_that_is_not_read_to_its_end_closes_the_connection(make_app: MakeApp) -> None:
    app, _ = make_app(max_body_bytes=200)
    for parts, headers, closes in (
        ([b"x" * 300], {"content-length": "300"}, False),
        ([b"x" * 1000] * 3, {"content-length": "3000"}, True),  # more than is thrown away
        ([b"x" * 1000] * 3, {}, True),
        ([], {"content-length": "300", "expect": "100-continue"}, True),  # never asked for
    ):
        reply = asyncio.run(asyncio.wait_for(exchange(app, "POST", "/v1/match", parts=parts, headers=headers), 5))
        refused(reply, 413, "limit_exceeded")
        assert (reply.headers.get("connection") == "close") is closes


def test_a_body_that_does_not_come_is_408(make_app: MakeApp) -> None:
    app, room = make_app(body_timeout_s=0.05)
    for parts in ([], [b'{"pairs"']):
        waiting = asyncio.run(exchange(app, "POST", "/v1/match", parts=parts, ends=False))
        error = refused(waiting, 408, "body_too_slow")
        assert error["retryable"] is True
        assert "0.05 s" in str(error["message"])
        assert waiting.headers["connection"] == "close"
    assert room.lifecycle.in_flight == 0


def test_a_client_that_leaves_while_it_sends_is_counted(make_app: MakeApp) -> None:
    app, room = make_app()

    async def leave() -> Reply:
        gone = asyncio.Event()
        gone.set()
        return await exchange(app, "POST", "/v1/match", parts=[], leave=gone)

    assert asyncio.run(leave()).status == 0
    text = room.metrics.text().decode()
    assert 'sluice_requests_total{model="",route="/v1/match",status="499"} 1.0' in text
    assert 'sluice_cancelled_total{model="",stage="receiving"} 1.0' in text


def test_a_client_that_leaves_frees_the_queue_of_match(make_app: MakeApp) -> None:
    app, room = make_app(matching_model="slow-matching", batch_items=1)
    engine = room.catalogue.find(("matching",), None).engine

    async def leave() -> Reply:
        gone = asyncio.Event()
        value = {"pairs": [{"text_a": "a", "text_b": str(number)} for number in range(100)]}
        request = asyncio.create_task(exchange(app, "POST", "/v1/match", value, leave=gone))
        while not engine.load().running_items:
            await asyncio.sleep(0.005)
        gone.set()
        return await request

    assert asyncio.run(asyncio.wait_for(leave(), 4)).status == 0  # the whole would take 5 s
    assert engine.load().queued_items == 0
    text = room.metrics.text().decode()
    assert 'sluice_cancelled_total{model="slow-matching",stage="queued"} 1.0' in text


def test_a_full_queue_is_429_with_an_integer_retry_after(make_app: MakeApp) -> None:
    app, room = make_app(matching_model="slow-matching", batch_items=1, queue_items=4)

    async def flood() -> list[Reply]:
        bodies = [{"pairs": [{"text_a": "a", "text_b": str(number)}]} for number in range(12)]
        return await asyncio.gather(*(exchange(app, "POST", "/v1/match", body) for body in bodies))

    replies = asyncio.run(flood())
    assert sorted({reply.status for reply in replies}) == [200, 429]
    for reply in replies:
        if reply.status == 429:
            error = refused(reply, 429, "overloaded")
            assert error["retryable"] is True
            assert int(reply.headers["retry-after"]) >= 1
    assert 'sluice_shed_total{model="slow-matching"}' in room.metrics.text().decode()


def test_a_request_that_would_be_refused_is_refused_unread(make_app: MakeApp) -> None:
    app, room = make_app(matching_model="slow-matching", batch_items=1, queue_items=4)
    engine = room.catalogue.find(("matching",), None).engine
    # Only a cross-encoder answers /predict: no other model could take it.
    rubbish = {"parts": [b"{"], "headers": {"content-length": "1"}}

    async def beside_a_full_queue() -> Reply:
        others = []
        for number in range(8):
            pair = {"pairs": [{"text_a": "a", "text_b": str(number)}]}
            others.append(asyncio.create_task(exchange(app, "POST", "/v1/match", pair)))
        while not engine.would_refuse(1):
            await asyncio.sleep(0.001)
        reply = await exchange(app, "POST", "/predict", **rubbish)
        await asyncio.gather(*others)
        return reply

    assert ask(app, "POST", "/predict", **rubbish).status == 422  # read when there is room
    reply = asyncio.run(beside_a_full_queue())
    assert reply.status == 429
    assert int(reply.headers["retry-after"]) >= 1


def test_a_failure_of_ours_is_500_and_tells_nothing(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    app, room = make_app()

    def fail(*_: object) -> None:
        raise RuntimeError("secret /etc/passwd")

    monkeypatch.setattr(room.catalogue.find(("matching",), None).engine, "prepare", fail)
    reply = ask(app, "POST", "/v1/match", PAIR)
    refused(reply, 500, "internal")
    assert b"secret" not in reply.body


def test_while_draining_new_work_and_readiness_are_503(make_app: MakeApp) -> None:
    app, room = make_app()
    room.lifecycle.draining = True
    for reply in (ask(app, "GET", "/readyz"), ask(app, "POST", "/v1/match", PAIR)):
        error = refused(reply, 503, "not_ready")
        assert error["retryable"] is True
        assert reply.headers["retry-after"] == "1"
    assert ask(app, "GET", "/livez").status == 200


def test_one_json_line_a_request(make_app: MakeApp, caplog: pytest.LogCaptureFixture) -> None:
    app, _ = make_app(access_log=True)
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"X-Request-ID": "r1", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    access = logging.getLogger("sluice.access")
    access.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.INFO, "sluice.access"):
            match(app, ("a", "b"), ("c", "d"), headers=headers)
            ask(app, "GET", "/nope\n")
            ask(app, "GET", "/livez")
    finally:
        access.removeHandler(caplog.handler)
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "sluice.access"]
    first, second = {json.dumps(line): line for line in lines}.values()
    assert first["trace_id"] == trace
    assert (first["request_id"], first["route"], first["status"], first["model"]) == (
        "r1",
        "/v1/match",
        200,
        "matching:v1",
    )
    assert (first["items"], first["tokens"]) == (2, 6)
    assert first["total_ms"] >= first["compute_ms"] > 0
    assert (second["route"], second["status"], second["error"]) == ("unmatched", 404, "not_found")


def test_label_values_are_few(app: Gate, make_app: MakeApp) -> None:
    app, room = make_app()
    for number in range(20):
        ask(app, "GET", f"/scan/{number}")
        ask(app, "GET", f"/v1/models/{number}")
        ask(app, "POST", "/v1/match", {**PAIR, "model": f"m{number}"})
    text = room.metrics.text().decode()
    counts = [line for line in text.splitlines() if line.startswith("sluice_requests_total")]
    assert len(counts) == 3
    assert 'sluice_requests_total{model="",route="unmatched",status="404"} 20.0' in counts
    assert 'sluice_requests_total{model="",route="/v1/models/{id}",status="404"} 20.0' in counts
