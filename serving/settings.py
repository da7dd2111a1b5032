"""What an operator may set, each thing declared once: the environment, the start-up errors and the table in
docs/api.md derive from here. Which models, how much at once, who may call, how to leave."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, field_validator

from runtime.contract import GenerationEngineName, Limits

PREFIX = "SLUICE_"
# Fields whose variable OpenTelemetry's specification names. Its default is otlp; here an endpoint must be set for that.
# What concerns the spans themselves (endpoint, headers, sampler, service name) is read by its SDK.
STANDARD = {"traces_exporter": "OTEL_TRACES_EXPORTER"}
OTLP_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
TRACES_DISABLED = "OTEL_SDK_DISABLED"
_LIMITS = Limits()
# Of a GPU, which the limits of a CPU would leave idle: most items and padded tokens of a batch.
_GPU_BATCH_ITEMS, _GPU_BATCH_TOKENS = 256, 32_768
_GPU_THREADS = 2  # one waits for the GPU, one prepares the next batch


class SettingsRefused(ValueError):
    """A setting in the environment cannot be read; the message names it, its value and what it may be."""


def _split(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_split), Field(min_length=1)]
TracesExporter = Literal["none", "otlp", "console"]
Keys = Annotated[tuple[SecretStr, ...], BeforeValidator(_split)]


class Settings(BaseModel):
    """The serving room's settings. The variable of a field is in STANDARD, or SLUICE_ and its name in capitals."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    matching_model: Names | None = Field(
        None,
        description="Matching models to serve, comma separated: NAME, NAME:VERSION, NAME:STAGE or a stage alone. "
        "Empty: all that are in production. The first, or the one named `matching`, answers requests that name none.",
    )
    embedding_model: Names | None = Field(
        None, description="Embedding models to serve, written the same way; the default is the one named `embedding`."
    )
    generation_model: Names | None = Field(
        None, description="Generation models to serve, written the same way; the default is the one named `generation`."
    )
    api_keys: Keys = Field(
        (), description="Bearer keys that may call, comma separated. Empty: everybody may. Pages and probes stay open."
    )
    max_body_bytes: int = Field(4 * 2**20, gt=0, description="Largest request body, in bytes; more is 413.")
    max_items: int = Field(1024, gt=0, description="Most pairs, documents or texts in one request; more is 413.")
    queue_items: int = Field(
        _LIMITS.max_items, gt=0, description="Pairs and texts queued and running at one model of a worker before 429."
    )
    queue_tokens: int = Field(_LIMITS.max_tokens, gt=0, description="The same limit in tokens.")
    batch_items: int | None = Field(
        None,
        gt=0,
        description=f"Most pairs or texts in one batch. Empty: {_LIMITS.batch_items}, on a GPU {_GPU_BATCH_ITEMS}.",
    )
    batch_tokens: int | None = Field(
        None,
        gt=0,
        description=f"The same in padded tokens. Empty: {_LIMITS.batch_tokens}, on a GPU {_GPU_BATCH_TOKENS}. What is "
        "best below is measured while serving.",
    )
    cache_items: int = Field(
        _LIMITS.cache_items, ge=0, description="Scores and vectors kept a model, for items that come again; 0: none."
    )
    target_wait_s: float = Field(
        _LIMITS.target_wait_s, gt=0, description="Saturation of an encoder is 1 when a newcomer would wait this long."
    )
    generation_engine: GenerationEngineName = Field(
        "onnx",
        description="What generates: `onnx`, on the CPU; `vllm`, on a GPU, from artifacts of format torch, where "
        "`requirements/gpu-generation.txt` is installed (not run on a GPU yet). What is not there stops the start.",
    )
    generation_slots: int = Field(8, gt=0, description="Sequences that generate at once in a worker.")
    generation_kv_bytes: int = Field(
        2**30,
        gt=0,
        description="What keys and values of all of these may take, in bytes, allocated once; bounds how long each may "
        "get where the model's own context has no room.",
    )
    generation_queue_items: int = Field(64, gt=0, description="Prompts that may wait for a slot before 429.")
    generation_queue_tokens: int = Field(65_536, gt=0, description="The same limit in tokens, max_tokens included.")
    match_deadline_ms: int = Field(
        30_000, gt=0, description="Deadline of scores and embeddings when the request sets none, in ms; later is 504."
    )
    completion_deadline_ms: int = Field(
        300_000, gt=0, description="Deadline of a completion, its whole stream included, in ms."
    )
    stream_keep_alive_s: float = Field(
        15, ge=0, description="A stream that has nothing to say sends a comment every so many seconds; 0: never."
    )
    body_timeout_s: float = Field(
        60, gt=0, description="A request's body must have arrived within so many seconds; later is 408."
    )
    device: str = Field(
        "cpu",
        pattern=r"^(cpu|cuda(:\d+)?)$",
        description="What computes matching, embeddings and, by vLLM, completions: `cpu`; `cuda`, where each worker "
        "takes a GPU of its own, by its number; or `cuda:N`, the Nth visible GPU for all workers. What is not there "
        "stops the start.",
    )
    workers: int = Field(
        1,
        gt=0,
        description="Processes that answer, each with its own models and queue; the limits above count a worker.",
    )
    threads: int | None = Field(
        None,
        gt=0,
        description="Cores that one engine uses. Empty: all that the server may, shared out to the workers; "
        f"with a GPU {_GPU_THREADS}.",
    )
    follow_s: float = Field(
        1.0,
        ge=0,
        description="Look for promotions and rollbacks in the store every so many seconds. 0: only at the start.",
    )
    drain_notice_s: float = Field(
        0, ge=0, description="After SIGTERM, answer 503 on /readyz for at least this long before connections close."
    )
    drain_timeout_s: float = Field(
        30, ge=0, description="After SIGTERM, keep answering at most this long while requests run; then stop listening."
    )
    access_log: bool = Field(True, description="One JSON line on stdout for each request that is not a probe.")
    traces_exporter: TracesExporter = Field(
        "none",
        description="Where spans go: none, otlp (http/protobuf) or console. An OTLP endpoint in the environment means "
        "otlp; OTEL_SDK_DISABLED=true means none.",
    )

    @field_validator("api_keys")
    @classmethod
    def _printable(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(not key.get_secret_value().isascii() or not key.get_secret_value().isprintable() for key in keys):
            raise ValueError("a key must be printable ASCII, because it travels in a header")
        return keys

    def devices(self) -> list[str]:
        """The device of each worker."""
        if self.device != "cuda":
            return [self.device] * self.workers
        return [f"cuda:{number}" for number in range(self.workers)]

    def on_worker(self, number: int) -> Settings:
        """These settings for worker `number`, counted from 0: `device` is its very own.

        A worker that takes the place of a dead one may have a number past the last; the GPUs start again there.
        """
        return self.model_copy(update={"device": self.devices()[number % self.workers]})

    def engine_threads(self) -> int:
        """Cores of one engine."""
        if self.device != "cpu" and self.threads is None:
            return _GPU_THREADS
        return self.threads or max(1, len(os.sched_getaffinity(0)) // self.workers)

    def encoder_limits(self) -> Limits:
        """Limits of a matching or an embedding engine."""
        gpu = self.device != "cpu"
        return Limits(
            max_items=self.queue_items,
            max_tokens=self.queue_tokens,
            batch_items=self.batch_items or (_GPU_BATCH_ITEMS if gpu else _LIMITS.batch_items),
            batch_tokens=self.batch_tokens or (_GPU_BATCH_TOKENS if gpu else _LIMITS.batch_tokens),
            cache_items=self.cache_items,
            target_wait_s=self.target_wait_s,
        )

    def generation_limits(self) -> Limits:
        """Limits of a generation engine."""
        return Limits(max_items=self.generation_queue_items, max_tokens=self.generation_queue_tokens)


def variable(field: str) -> str:
    """The environment variable of a field."""
    return STANDARD.get(field, PREFIX + field.upper())


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Settings from the environment; an empty variable counts as not set. Raises SettingsRefused."""
    given = {
        field: environ[variable(field)].strip()
        for field in Settings.model_fields
        if environ.get(variable(field), "").strip()
    }
    if environ.get(TRACES_DISABLED, "").strip().lower() == "true":
        given["traces_exporter"] = "none"
    elif any(environ.get(name, "").strip() for name in OTLP_ENDPOINTS):
        given.setdefault("traces_exporter", "otlp")
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        problem = error.errors()[0]
        field = str(problem["loc"][0])
        shown = "(hidden)" if field == "api_keys" else repr(given[field])
        raise SettingsRefused(
            f"{variable(field)} is {shown}: {problem['msg']}. {Settings.model_fields[field].description}"
        ) from None


def misspelt(environ: Mapping[str, str]) -> list[str]:
    """A warning for each SLUICE_* variable that is nearly one of ours: it would do nothing, silently."""
    known = [variable(field) for field in Settings.model_fields]
    # SLUICE_API_KEY is the load generator's own key, in whose shell a server may well be started.
    others = [name for name in environ if name.startswith(PREFIX) and name not in known and name != "SLUICE_API_KEY"]
    return [
        f"{name} is not a setting of the server; did you mean {near[0]}?"
        for name in others
        if (near := difflib.get_close_matches(name, known, 1, cutoff=0.85))
    ]


def settings_table() -> str:
    """The Markdown table of docs/api.md."""
    rows = ["| variable | default | what it does |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
        shown = "" if default in (None, "") else f"`{str(default).lower() if default is True else default}`"
        rows.append(f"| `{variable(name)}` | {shown} | {field.description} |")
    return "\n".join(rows)
