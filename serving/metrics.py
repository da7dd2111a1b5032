"""What Prometheus may ask: every metric of this room, declared once. Labels have few values: route patterns, served
model ids, statuses; never a path or a text that a caller chose.

Values are kept by `bentoml.metrics`, which adds up the workers of a server.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from runtime.encoder import EncoderEngine
from serving.catalogue import Served

# 0.5 ms … 2 min, about two a doubling: fine where interactive latencies lie, coarse where they hurt anyway.
SECONDS = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.04, 0.065, 0.1,
    0.15, 0.25, 0.4, 0.65, 1, 1.5, 2.5, 4, 6.5, 10, 20, 40, 80, 120,
)  # fmt: skip
ITEMS = (1, 2, 4, 8, 16, 32, 64, 128)
TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
RATIO = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)


@dataclass(frozen=True, slots=True)
class Meter:
    """A metric: its name, Prometheus type, labels, meaning, and buckets or the rule that joins workers."""

    name: str
    kind: str  # Counter | Histogram | Gauge
    labels: tuple[str, ...]
    meaning: str
    buckets: tuple[float, ...] = ()
    across_workers: str = ""


METERS = (
    Meter("sluice_requests_total", "Counter", ("route", "status", "model"), "Requests answered; 499: the client left."),
    Meter("sluice_request_seconds", "Histogram", ("route",), "From the first byte read to the last written.", SECONDS),
    Meter("sluice_requests_in_flight", "Gauge", (), "Requests being answered, probes apart.", (), "livesum"),
    Meter("sluice_tokenize_seconds", "Histogram", ("model",), "Texts to token ids, of one request.", SECONDS),
    Meter("sluice_queue_wait_seconds", "Histogram", ("model",), "From submission to the first compute.", SECONDS),
    Meter("sluice_compute_seconds", "Histogram", ("model",), "One matching batch, or one decoding step.", SECONDS),
    Meter("sluice_batch_items", "Histogram", ("model",), "Pairs of a batch, or sequences of a step.", ITEMS),
    Meter("sluice_batch_tokens", "Histogram", ("model",), "Tokens of a matching batch, padding apart.", TOKENS),
    Meter("sluice_padding_ratio", "Histogram", ("model",), "Share of a matching batch that is padding.", RATIO),
    Meter("sluice_time_to_first_token_seconds", "Histogram", ("model",), "From submission to a token.", SECONDS),
    Meter("sluice_inter_token_seconds", "Histogram", ("model",), "Between two tokens of a sequence.", SECONDS),
    Meter("sluice_input_tokens_total", "Counter", ("model",), "Tokens read: of pairs, or of prompts."),
    Meter("sluice_prefill_tokens_total", "Counter", ("model",), "Tokens of prompts that were computed."),
    Meter("sluice_prefix_tokens_total", "Counter", ("model",), "Tokens of prompts that the KV cache had already."),
    Meter("sluice_output_tokens_total", "Counter", ("model",), "Tokens generated."),
    Meter("sluice_finished_total", "Counter", ("model", "reason"), "Completions that ended by stop or length."),
    Meter("sluice_shed_total", "Counter", ("model",), "Requests refused with 429."),
    Meter("sluice_coalesced_total", "Counter", ("model",), "Items that joined an equal one in flight."),
    Meter(
        "sluice_result_cache_total", "Counter", ("model", "outcome"), "Items looked up in the result cache: hit, miss."
    ),
    Meter(
        "sluice_cancelled_total",
        "Counter",
        ("model", "stage"),
        "Work dropped while receiving, queued, running; expired.",
    ),
    Meter(
        "sluice_swaps_total",
        "Counter",
        ("model", "outcome"),
        "Promotions followed: added, switched, removed; refused: what was served stays.",
    ),
    Meter("sluice_queued_items", "Gauge", ("model",), "Pairs, or prompts, that wait.", (), "livesum"),
    Meter("sluice_queued_tokens", "Gauge", ("model",), "The same in tokens.", (), "livesum"),
    Meter("sluice_running_items", "Gauge", ("model",), "Pairs, or sequences, in compute.", (), "livesum"),
    Meter("sluice_running_tokens", "Gauge", ("model",), "The same in tokens.", (), "livesum"),
    Meter(
        "sluice_kv_cache_usage_ratio",
        "Gauge",
        ("model",),
        "Tokens of running sequences over those that the KV cache has room for, of the fullest worker.",
        (),
        "livemax",
    ),
    Meter(
        "sluice_saturation",
        "Gauge",
        (),
        "Work in flight over capacity, of the fullest model and worker; 1 is full. The autoscaling signal.",
        (),
        "livemax",
    ),
)
# Metric type -> its method that takes a value.
RECORD = {"Counter": "inc", "Histogram": "observe", "Gauge": "set"}
LEVELS = ("sluice_queued_items", "sluice_queued_tokens", "sluice_running_items", "sluice_running_tokens")
# An engine's event -> the metric that takes it.
EVENTS = {
    "queue_s": "sluice_queue_wait_seconds",
    "compute_s": "sluice_compute_seconds",
    "batch_items": "sluice_batch_items",
    "batch_tokens": "sluice_batch_tokens",
    "padding_ratio": "sluice_padding_ratio",
    "ttft_s": "sluice_time_to_first_token_seconds",
    "inter_token_s": "sluice_inter_token_seconds",
    "prompt_tokens": "sluice_input_tokens_total",
    "prefill_tokens": "sluice_prefill_tokens_total",
    "prefix_tokens": "sluice_prefix_tokens_total",
    "generated_tokens": "sluice_output_tokens_total",
    "finished": "sluice_finished_total",
    "shed": "sluice_shed_total",
    "cancelled": "sluice_cancelled_total",
    "coalesced": "sluice_coalesced_total",
    "cache": "sluice_result_cache_total",
}


class EngineObserver:
    """Turns the events of one engine into metrics of its model, once it is `listening`: a warm-up is no traffic.

    Called from engine threads.
    """

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics = metrics
        self._model = model
        self._known: dict[tuple[str, str], Callable[[float], None]] = {}
        self.listening = False

    def observe(self, event: str, value: float, **labels: Any) -> None:
        """See runtime.contract.Observer."""
        if not self.listening:
            return
        label = next(iter(labels.values()), "")
        record = self._known.get((event, label))
        if record is None:
            names = {"model": self._model} | {name: str(each) for name, each in labels.items()}
            record = self._known[event, label] = self._metrics.recorder(EVENTS[event], **names)
        record(value)
        if event == "batch_tokens":
            self.observe("prompt_tokens", value)


class Metrics:
    """The metrics of this process, in a registry of their own. Made in the worker, after BentoML has set it up."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            # BentoML calls its own module deprecated; it is still where its multi-process directory is looked after.
            warnings.simplefilter("ignore", DeprecationWarning)
            source: Any = importlib.import_module("bentoml.metrics")  # its names exist only when asked for
            makers = {kind: getattr(source, kind) for kind in RECORD}
            self._generate = source.generate_latest
            self._registry = source.CollectorRegistry()
        self._meters: dict[str, Any] = {}
        for meter in METERS:
            options: dict[str, Any] = {"registry": self._registry}
            if meter.buckets:
                options["buckets"] = meter.buckets
            if meter.across_workers:
                options["multiprocess_mode"] = meter.across_workers
            self._meters[meter.name] = makers[meter.kind](meter.name, meter.meaning, meter.labels, **options)
        self._known: dict[tuple[str, ...], Callable[[float], None]] = {}
        self._levelled: set[str] = set()  # a model that is gone goes back to 0
        self._filled: set[str] = set()  # the same of generation models

    def recorder(self, name: str, **labels: str) -> Callable[[float], None]:
        """The function that adds to a counter, observes into a histogram or sets a gauge."""
        metric = self._meters[name].labels(**labels) if labels else self._meters[name]
        kind = next(meter.kind for meter in METERS if meter.name == name)
        record: Callable[[float], None] = getattr(metric, RECORD[kind])
        return record

    def request(self, route: str, status: int, model: str, total_s: float) -> None:
        """Count an answered request."""
        self._record(("sluice_requests_total", route, str(status), model), 1)
        self._record(("sluice_request_seconds", route), total_s)

    def tokenized(self, model: str, took_s: float) -> None:
        """Record the tokenising of one request."""
        self._record(("sluice_tokenize_seconds", model), took_s)

    def left(self, model: str, stage: str) -> None:
        """Count a caller who left before any engine saw the work; the engines count theirs."""
        self._record(("sluice_cancelled_total", model, stage), 1)

    def swapped(self, model: str, outcome: str) -> None:
        """Count a promotion that was followed, or refused."""
        self._record(("sluice_swaps_total", model, outcome), 1)

    def levels(self, served: Iterable[Served], in_flight: int) -> None:
        """Set the gauges from what is in flight now. During a swap, an id has two engines, which are added up."""
        highest = 0.0
        fill = dict.fromkeys(self._filled, 0.0)
        totals: dict[str, list[int]] = {model: [0, 0, 0, 0] for model in self._levelled}
        for model in served:
            load = model.engine.load()
            each = (load.queued_items, load.queued_tokens, load.running_items, load.running_tokens)
            totals[model.id] = [a + b for a, b in zip(totals.get(model.id, [0] * 4), each, strict=True)]
            highest = max(highest, load.saturation)
            if not isinstance(model.engine, EncoderEngine):
                fill[model.id] = max(fill.get(model.id, 0.0), load.running_tokens / model.engine.capacity)
        self._levelled |= totals.keys()
        self._filled |= fill.keys()
        for id, ratio in fill.items():
            self._record(("sluice_kv_cache_usage_ratio", id), ratio)
        for id, values in totals.items():
            for name, value in zip(LEVELS, values, strict=True):
                self._record((name, id), value)
        self._record(("sluice_saturation",), highest)
        self._record(("sluice_requests_in_flight",), in_flight)

    def text(self) -> bytes:
        """This process's metrics in Prometheus' text format."""
        text: bytes = self._generate(self._registry)
        return text

    def _record(self, key: tuple[str, ...], value: float) -> None:
        record = self._known.get(key)
        if record is None:
            names = next(meter.labels for meter in METERS if meter.name == key[0])
            record = self._known[key] = self.recorder(key[0], **dict(zip(names, key[1:], strict=True)))
        record(value)


def metrics_table() -> str:
    """The Markdown table of docs/api.md."""
    rows = ["| metric | type | labels | what it says |", "|---|---|---|---|"]
    for meter in METERS:
        labels = ", ".join(meter.labels)
        rows.append(f"| `{meter.name}` | {meter.kind.lower()} | {labels} | {meter.meaning} |")
    return "\n".join(rows)
