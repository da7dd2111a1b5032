"""OpenTelemetry spans of our routes: one for a request, and within it one for each stage of Server-Timing.

They are made after the answer, from the times that the call has noted, so that nobody waits for them. OpenTelemetry is
imported only where spans were asked for; its SDK reads the standard variables (endpoint, headers, sampler, service
name) itself. The provider is our own: the global one belongs to BentoML.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from serving.call import Call
from serving.errors import TABLE
from serving.settings import SettingsRefused, TracesExporter, variable

if TYPE_CHECKING:
    from opentelemetry.trace import Span

EXPORTERS = {
    "otlp": ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "OTLPSpanExporter"),
    "console": ("opentelemetry.sdk.trace.export", "ConsoleSpanExporter"),
}
SERVICE = "sluice"
# At the end spans are sent for so long. A collector that is away must not hold a process that has drained: the SDK
# would try again for 10 s a batch.
CLOSE_S = 3.0
# https://opentelemetry.io/docs/specs/semconv: any other method is _OTHER, because callers may invent them.
METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
# Route -> its GenAI operation.
OPERATIONS = {
    "/v1/completions": "text_completion",
    "/v1/chat/completions": "chat",
    "/bentoml/generate": "text_completion",
    "/v1/embeddings": "embeddings",
    "/embed": "embeddings",
    "/bentoml/embed": "embeddings",
}


def open_tracing(exporter: TracesExporter) -> Tracing | None:
    """Spans for this process; None where none were asked for. Raises SettingsRefused, see `exporter_class`."""
    return None if exporter == "none" else Tracing(exporter)


def exporter_class(exporter: TracesExporter) -> Any:
    """The exporter that was asked for. Raises SettingsRefused where its package is not installed."""
    module, name = EXPORTERS[exporter]
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError:
        raise SettingsRefused(
            f"{variable('traces_exporter')} is {exporter!r}, or an OTLP endpoint is set, and the package "
            "opentelemetry-exporter-otlp-proto-http is not installed. Install it with `pip install -c constraints.txt "
            f"-r requirements/tracing.txt`, or set {variable('traces_exporter')}=none."
        ) from None


class Tracing:
    """Makes the spans of ended calls, sends them in the background; `close` sends what is left."""

    def __init__(self, exporter: TracesExporter) -> None:
        make = exporter_class(exporter)
        from opentelemetry import trace
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        named = OTELResourceDetector().detect().attributes
        self._provider = TracerProvider(resource=Resource.create({"service.name": SERVICE, **named}))
        # One line a span: the access log's lines go to the same place.
        options = {"formatter": lambda span: span.to_json(indent=None) + "\n"} if exporter == "console" else {}
        self._exporter = make(**options)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer(SERVICE)
        self._within = trace.set_span_in_context
        self._parent = TraceContextTextMapPropagator().extract
        self._server, self._failed = trace.SpanKind.SERVER, trace.Status(trace.StatusCode.ERROR)

    def record(self, call: Call, scope: MutableMapping[str, Any], status: int) -> None:
        """Make the spans of a call that ends now, and give it their trace id."""
        now, ended = time.monotonic(), time.time_ns()

        def at(moment: float) -> int:
            return ended - int((now - moment) * 1e9)

        carried = {
            name.decode(): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in (b"traceparent", b"tracestate")
        }
        attributes = attributes_of(call, scope["method"], status)
        name = scope["method"] if scope["method"] in METHODS else "HTTP"
        span = self._tracer.start_span(
            f"{name} {call.route}" if "http.route" in attributes else name,
            context=self._parent(carried),
            kind=self._server,
            attributes=attributes,
            start_time=at(call.received),
        )
        if not span.is_recording():
            return
        call.trace_id = f"{span.get_span_context().trace_id:032x}"
        if status >= 500 or (call.error and TABLE[call.error][0] >= 500):
            span.set_status(self._failed)
        begin = call.tokenized - call.tokenize_s
        for stage, took_s in (("tokenize", call.tokenize_s), ("queue", call.queue_s), ("compute", call.compute_s)):
            if call.tokenized and took_s:
                self._stage(span, stage, at(begin), at(min(begin + took_s, now)))
                begin += took_s
        span.end(ended)

    def close(self) -> None:
        """Send what is left, as far as CLOSE_S goes; no spans after this."""
        enough = threading.Timer(CLOSE_S, self._exporter.shutdown)
        enough.start()
        self._provider.shutdown()
        enough.cancel()

    def _stage(self, request: Span, name: str, begun: int, ended: int) -> None:
        self._tracer.start_span(name, context=self._within(request), start_time=begun).end(ended)


def attributes_of(call: Call, method: str, status: int) -> dict[str, Any]:
    """The attributes of a request's span; none has a value that a caller can choose freely."""
    attributes: dict[str, Any] = {
        "http.request.method": method if method in METHODS else "_OTHER",
        "http.response.status_code": status,
    }
    if call.route != "unmatched":
        attributes["http.route"] = call.route
    if call.error or status >= 500:
        attributes["error.type"] = call.error or str(status)
    if not call.model:
        return attributes
    attributes |= {"sluice.model": call.tag, "sluice.items": call.items, "sluice.tokens": call.tokens}
    if operation := OPERATIONS.get(call.route):
        attributes |= {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": SERVICE,
            "gen_ai.request.model": call.model,
            "gen_ai.usage.input_tokens": call.tokens - call.output_tokens,
        }
        if operation != "embeddings":
            attributes["gen_ai.usage.output_tokens"] = call.output_tokens
            attributes |= {f"gen_ai.{name}": value for name, value in call.generation.items()}
    return attributes
