"""Spans: nothing at all when off; when on, the caller's trace goes on, stage by stage."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, Tracer, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from serving import tracing
from serving.gate import Gate
from serving.settings import SettingsRefused
from tests.unit.serving.asgi import Reply, ask, complete, exchange, match
from tests.unit.serving.conftest import MakeApp

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[3]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
Traced = tuple[Gate, Callable[[], list[ReadableSpan]]]


@pytest.fixture
def traced(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> Traced:
    """An app whose spans stay in memory, and the function that ends it and gives those spans."""
    kept = InMemorySpanExporter()
    monkeypatch.setattr(tracing, "exporter_class", lambda _: lambda: kept)
    app, _ = make_app(traces_exporter="otlp")

    def spans() -> list[ReadableSpan]:
        app.close()
        return list(kept.get_finished_spans())

    return app, spans


def request_span(spans: list[ReadableSpan]) -> ReadableSpan:
    (found,) = [span for span in spans if span.kind is SpanKind.SERVER]
    return found


def test_off_means_that_nothing_of_opentelemetry_is_imported() -> None:
    program = (
        "import sys, serving.gate, serving.tracing, serving.settings\n"
        "assert serving.tracing.open_tracing(serving.settings.read_settings({}).traces_exporter) is None\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_off_means_that_no_span_is_made(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr(Tracer, "start_span", lambda *given, **_: made.append(given))
    monkeypatch.setattr(TracerProvider, "__init__", lambda *given, **_: made.append(given))
    app, _ = make_app()
    assert match(app, ("a", "b"), headers={"traceparent": f"00-{TRACE}-{PARENT}-01"}).status == 200
    app.close()
    assert made == []


def test_the_callers_trace_goes_on(traced: Traced) -> None:
    app, spans = traced
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
    assert match(app, ("a", "b"), ("c", "d"), headers=headers).status == 200
    made = spans()
    request = request_span(made)
    assert request.parent is not None
    assert (f"{request.context.trace_id:032x}", f"{request.parent.span_id:016x}") == (TRACE, PARENT)
    assert request.context.trace_state.get("vendor") == "1"
    assert request.name == "POST /v1/match"
    assert dict(request.attributes or {}) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/v1/match",
        "sluice.model": "matching:v1",
        "sluice.items": 2,
        "sluice.tokens": 6,
    }
    stages = [span for span in made if span is not request]
    assert [span.name for span in stages] == ["tokenize", "queue", "compute"]
    for span in stages:
        assert span.parent == request.context
        assert request.start_time <= span.start_time <= span.end_time <= request.end_time
    assert all(first.end_time <= second.start_time for first, second in pairwise(stages))


def test_without_a_caller_a_trace_begins(traced: Traced) -> None:
    app, spans = traced
    for header in (None, f"00-{'0' * 32}-{PARENT}-01", "nonsense"):
        match(app, ("a", "b"), headers={"traceparent": header} if header else {})
    requests = [span for span in spans() if span.kind is SpanKind.SERVER]
    assert [span.parent for span in requests] == [None] * 3
    assert len({span.context.trace_id for span in requests}) == 3


def test_a_caller_that_does_not_sample_has_no_spans(traced: Traced) -> None:
    app, spans = traced
    match(app, ("a", "b"), headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    assert spans() == []


def test_the_sampler_of_the_environment_is_asked(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = InMemorySpanExporter()
    monkeypatch.setattr(tracing, "exporter_class", lambda _: lambda: kept)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    app, _ = make_app(traces_exporter="otlp")
    match(app, ("a", "b"))
    match(app, ("a", "b"), headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    app.close()
    assert f"{request_span(list(kept.get_finished_spans())).context.trace_id:032x}" == TRACE


@pytest.mark.parametrize("stream", [False, True])
def test_completions_carry_the_genai_names(traced: Traced, stream: bool) -> None:
    app, spans = traced
    assert complete(app, prompt="once upon", max_tokens=3, stream=stream).status == 200
    attributes = request_span(spans()).attributes or {}
    assert attributes["gen_ai.operation.name"] == "text_completion"
    assert attributes["gen_ai.request.model"] == "generation"
    assert attributes["gen_ai.usage.output_tokens"] == 3
    assert attributes["gen_ai.request.max_tokens"] == 3
    assert attributes["gen_ai.request.temperature"] == 1
    assert attributes["gen_ai.request.choice.count"] == 1
    assert attributes["gen_ai.output.type"] == "text"
    assert attributes["gen_ai.response.model"] == "generation"
    assert attributes["gen_ai.response.finish_reasons"] == ("length",)
    assert attributes["gen_ai.usage.cache_read.input_tokens"] >= 0  # type: ignore[operator]
    assert "gen_ai.request.seed" not in attributes
    total = attributes["sluice.tokens"]
    assert attributes["gen_ai.usage.input_tokens"] == total - 3  # type: ignore[operator]


def test_a_chat_is_an_operation_of_its_own(traced: Traced) -> None:
    app, spans = traced
    body = {"messages": [{"role": "user", "content": "once upon"}], "max_tokens": 3, "seed": 5, "stop": "secret"}
    assert ask(app, "POST", "/v1/chat/completions", body).status == 200
    attributes = request_span(spans()).attributes or {}
    assert (attributes["gen_ai.operation.name"], attributes["gen_ai.request.seed"]) == ("chat", 5)
    assert "secret" not in str(attributes)


@pytest.mark.parametrize(("path", "value"), [("/v1/embeddings", {"input": "a b"}), ("/embed", {"inputs": "a b"})])
def test_embeddings_carry_the_genai_names(traced: Traced, path: str, value: dict[str, str]) -> None:
    app, spans = traced
    ask(app, "POST", path, value)
    attributes = request_span(spans()).attributes or {}
    assert (attributes["gen_ai.operation.name"], attributes["gen_ai.request.model"]) == ("embeddings", "embedding")
    assert attributes["gen_ai.usage.input_tokens"] == attributes["sluice.tokens"]
    assert "gen_ai.usage.output_tokens" not in attributes


def test_refusals_have_a_type_and_only_our_failures_an_error_status(
    traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, spans = traced
    ask(app, "POST", "/v1/match", {"pairs": []})
    ask(app, "PURGE", "/scan/1")
    ask(app, "GET", "/readyz")
    monkeypatch.setattr("serving.matching._usage", lambda _: 1 / 0)
    match(app, ("a", "b"))
    refused, scanned, failed = [span for span in spans() if span.kind is SpanKind.SERVER]
    assert (refused.attributes or {})["error.type"] == "invalid_input"
    assert refused.status.status_code is StatusCode.UNSET
    assert scanned.name == "HTTP"
    assert dict(scanned.attributes or {}) == {
        "http.request.method": "_OTHER",
        "http.response.status_code": 404,
        "error.type": "not_found",
    }
    assert (failed.attributes or {})["error.type"] == "internal"
    assert failed.status.status_code is StatusCode.ERROR


def test_a_client_that_left(traced: Traced) -> None:
    app, spans = traced

    async def leave() -> Reply:
        gone = asyncio.Event()
        gone.set()
        return await exchange(app, "POST", "/v1/match", parts=[], leave=gone)

    asyncio.run(leave())
    attributes = request_span(spans()).attributes or {}
    assert (attributes["http.response.status_code"], attributes["error.type"]) == (499, "cancelled")


def test_a_collector_that_is_away_does_not_hold_the_end(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    told = threading.Event()
    sent: list[bool] = []

    class Stuck(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            sent.append(told.wait(20))
            return SpanExportResult.FAILURE

        def shutdown(self) -> None:
            told.set()

    monkeypatch.setattr(tracing, "exporter_class", lambda _: Stuck)
    monkeypatch.setattr(tracing, "CLOSE_S", 0.1)
    app, _ = make_app(traces_exporter="otlp")
    match(app, ("a", "b"))
    app.close()
    assert sent == [True]


def test_an_exporter_that_is_not_installed_is_named(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SettingsRefused, match="opentelemetry-exporter-otlp-proto-http is not installed") as refused:
        make_app(traces_exporter="otlp")
    assert "requirements/tracing.txt" in str(refused.value)
