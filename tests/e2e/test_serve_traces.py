"""Spans from a real server to a real OTLP receiver, and a start-up that says what is missing."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.e2e.serving_process import BENTOML, ROOT, environment, free_port, publish, serve

pytestmark = pytest.mark.e2e
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
PAIR = {"pairs": [{"text_a": "a b", "text_b": "B a"}]}


@dataclass
class Collector:
    """What an OTLP/HTTP receiver has been sent."""

    url: str
    spans: list[Span] = field(default_factory=list)
    services: set[str] = field(default_factory=set)

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.services |= {
                each.value.string_value for each in resource.resource.attributes if each.key == "service.name"
            }
            for scope in resource.scope_spans:
                self.spans += scope.spans

    def trace(self, trace_id: str, spans: int) -> list[Span]:
        """The spans of one trace, once there are so many; oldest first."""
        deadline = time.monotonic() + 20
        while True:
            found = [span for span in self.spans if span.trace_id.hex() == trace_id]
            if len(found) >= spans:
                return sorted(found, key=lambda span: (span.start_time_unix_nano, -span.end_time_unix_nano))
            assert time.monotonic() < deadline, f"{len(found)} spans of trace {trace_id} came"
            time.sleep(0.05)


@contextmanager
def collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path == "/v1/traces":
                received.take(body)
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    receiver = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received = Collector(f"http://127.0.0.1:{receiver.server_port}")
    thread = threading.Thread(target=receiver.serve_forever, daemon=True)
    thread.start()
    try:
        yield received
    finally:
        receiver.shutdown()
        receiver.server_close()
        thread.join()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    publish(home, "matching", "matching", latency_s=0.02)
    publish(home, "generation", "generation", latency_s=0.02)
    return home


@pytest.fixture(scope="module")
def traced(home: Path) -> Iterator[tuple[httpx.Client, Collector]]:
    """A server that sends its spans, soon, and where they arrive."""
    with collector() as received:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": received.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        with serve(home, **settings) as server, httpx.Client(base_url=server.url, timeout=30) as client:
            yield client, received


def value(span: Span, name: str) -> object:
    """One attribute."""
    (found,) = [each.value for each in span.attributes if each.key == name]
    return getattr(found, found.WhichOneof("value"))


def milliseconds(span: Span) -> float:
    return (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6


def test_the_callers_trace_goes_on_and_agrees_with_server_timing(traced: tuple[httpx.Client, Collector]) -> None:
    client, received = traced
    reply = client.post("/v1/match", json=PAIR, headers=TRACEPARENT)
    assert reply.status_code == 200
    request, *stages = received.trace(TRACE, spans=4)
    assert (request.name, request.kind) == ("POST /v1/match", Span.SPAN_KIND_SERVER)
    assert request.parent_span_id.hex() == PARENT
    assert value(request, "http.response.status_code") == 200
    assert value(request, "sluice.model") == "matching:v1"
    assert [span.name for span in stages] == ["tokenize", "queue", "compute"]
    timing = {name: float(took) for name, took in re.findall(r"(\w+);dur=([\d.]+)", reply.headers["server-timing"])}
    for span in stages:
        assert span.parent_span_id == request.span_id
        assert request.start_time_unix_nano <= span.start_time_unix_nano
        assert span.end_time_unix_nano <= request.end_time_unix_nano
        assert milliseconds(span) == pytest.approx(timing[span.name], abs=0.01)  # the header has two decimals
    assert milliseconds(request) >= timing["total"] - 0.01  # the header was written a moment before the end
    assert received.services == {"sluice"}


def test_a_stream_is_one_span_to_its_last_token(traced: tuple[httpx.Client, Collector]) -> None:
    client, received = traced
    trace = "1" * 32
    value_ = {"prompt": "once", "max_tokens": 8, "stream": True}
    reply = client.post("/v1/completions", json=value_, headers={"traceparent": f"00-{trace}-{PARENT}-01"})
    assert reply.text.endswith("data: [DONE]\n\n")
    request, *stages = received.trace(trace, spans=4)
    compute = next(span for span in stages if span.name == "compute")
    assert compute.end_time_unix_nano <= request.end_time_unix_nano
    assert milliseconds(compute) >= 7 * 20  # seven steps of 20 ms and a prefill
    assert value(request, "gen_ai.operation.name") == "text_completion"
    assert value(request, "gen_ai.usage.output_tokens") == 8


def test_refusals_and_unsampled_callers(traced: tuple[httpx.Client, Collector]) -> None:
    client, received = traced
    quiet, loud = "2" * 32, "3" * 32
    assert client.post("/v1/match", json=PAIR, headers={"traceparent": f"00-{quiet}-{PARENT}-00"}).status_code == 200
    assert client.get("/nope", headers={"traceparent": f"00-{loud}-{PARENT}-01"}).status_code == 404
    (refused,) = received.trace(loud, spans=1)  # sent after the quiet one would have been
    assert (refused.name, value(refused, "error.type")) == ("GET", "not_found")
    assert refused.status.code == Status.STATUS_CODE_UNSET
    assert all(span.trace_id.hex() != quiet for span in received.spans)


def test_what_is_left_is_sent_at_the_end(home: Path) -> None:
    with collector() as received:
        settings = {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{received.url}/v1/traces",
            "OTEL_SERVICE_NAME": "mine",
            "OTEL_BSP_SCHEDULE_DELAY": "3600000",
        }
        with serve(home, "service:Matching", **settings) as server:
            httpx.post(f"{server.url}/v1/match", json=PAIR, headers=TRACEPARENT, timeout=30)
            assert received.spans == []
        assert received.trace(TRACE, spans=4)[0].name == "POST /v1/match"
        assert received.services == {"mine"}


def test_the_console_gets_one_line_a_span(home: Path) -> None:
    with serve(home, "service:Matching", OTEL_TRACES_EXPORTER="console") as server:
        httpx.post(f"{server.url}/v1/match", json=PAIR, headers=TRACEPARENT, timeout=30)
    lines = [json.loads(line) for line in server.output().splitlines() if line.startswith("{")]
    assert {line["name"] for line in lines if "name" in line} == {"POST /v1/match", "tokenize", "queue", "compute"}
    (logged,) = [line for line in lines if "route" in line]
    assert logged["trace_id"] == TRACE


def test_a_missing_exporter_ends_the_start_with_its_name(home: Path, tmp_path: Path) -> None:
    missing = "import sys\nsys.modules['opentelemetry.exporter.otlp.proto.http.trace_exporter'] = None\n"
    (tmp_path / "sitecustomize.py").write_text(missing)
    settings = {"OTEL_TRACES_EXPORTER": "otlp", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [BENTOML, "serve", "--host", "127.0.0.1", "--port", str(free_port())],
        cwd=ROOT,
        env=environment(home, **settings),
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 1
    assert "opentelemetry-exporter-otlp-proto-http is not installed" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
