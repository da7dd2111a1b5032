"""The seam to BentoML: what its process, store and build need to know of us. The only module that touches BentoML's
own objects; service.py composes services from what is here.

BentoML starts the workers, packs the models and answers its typed clients. Every request first reaches our gate,
outside BentoML's middlewares (docs/adr/0002 says why, with the measurements).

The process that starts the workers imports this module too, only to look at the service. What answers requests
(FastAPI's app, the modules of the kinds) is therefore imported where it is used: "Cold start" in docs/experiments.md.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import logging
import os
import shutil
import socket
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import bentoml
import psutil
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml.exceptions import BentoMLException
from pydantic import BaseModel, ValidationError

from runtime.contract import PromptScores
from runtime.errors import Cancelled, SluiceError
from runtime.manifest import Kind, Manifest, verify
from runtime.store import Entry, ModelStore, store_home
from serving.call import current_call
from serving.catalogue import Choice, choose, choose_packed
from serving.embedding_schemas import EmbeddingsRequest, EmbeddingsResponse
from serving.errors import from_validation, status_of
from serving.follower import Follower
from serving.gate import App, Gate
from serving.generation_schemas import CompletionRequest
from serving.room import Room, log_to_stdout
from serving.schemas import MatchRequest, MatchResponse, PairIn, RerankRequest, RerankResponse
from serving.settings import Settings, SettingsRefused, misspelt, read_settings
from serving.tracing import exporter_class

# BentoML's own access log, metrics and time-out stand in front of its typed routes only; ours cover those as well.
HOSTING: dict[str, Any] = {
    "traffic": {"timeout": 86_400},
    "logging": {"access": {"enabled": False}},
    "metrics": {"enabled": False},
}
logger = logging.getLogger(__name__)
Request = TypeVar("Request", bound=BaseModel)
METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"


class HostedService(bentoml.Service):  # type: ignore[misc]  # BentoML is not typed for mypy
    """A BentoML service whose requests go to the gate, and whose models are known when BentoML asks for them."""

    gate: Gate | None = None
    bento_app: App | None = None

    def __attrs_post_init__(self) -> None:
        """Read the methods of the class, as BentoML does; the models are looked up later, not at import."""
        super().__attrs_post_init__()
        self.models = ModelsOnDemand(self)
        self.inner.service = self
        self.inner.check_devices = bentoml.on_deployment(lambda: self.check_devices())

    def on_load_bento(self, bento: Any) -> None:
        """This service was loaded from a built bento, whose models it serves."""
        self.bento = bento

    def inject_config(self) -> None:
        """BentoML reads its configuration, for which our settings are the defaults."""
        with refusals():
            self.config["workers"] = read_settings(os.environ).workers
        super().inject_config()

    def to_asgi(self, is_main: bool = True) -> App:
        """BentoML's app for start-up, shutdown and its typed routes; the gate in front of it for every request."""
        bento: App = super().to_asgi(is_main)

        async def front(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                await bento(scope, receive, send)  # makes the instance, which sets the gate
            else:
                assert self.gate is not None
                await self.gate(scope, receive, send)

        self.bento_app = bento
        return front

    def __call__(self) -> Any:
        """The instance of this worker: the models are loaded, then the gate opens. Without a server only the former."""
        if self.bento_app is None:
            return super().__call__()
        from serving.app import create_app

        # What is imported stays: looking through it again and again would hold the event loop for tens of ms. Models
        # come after that, because one that is swapped out has to go.
        gc.freeze()
        instance = super().__call__()
        room: Room = instance.room
        app = create_app(room, metrics_of_all_workers)
        self.gate = Gate(app, self.bento_app, room.settings, room.metrics, room.lifecycle)
        # A bento serves what is packed in it, whatever the store's pointers say.
        follows = self.bento is None and room.settings.follow_s
        store = ModelStore(store_home(os.environ))
        room.start(asyncio.get_running_loop(), *([Follower(room, self.inner.kinds, store).run()] if follows else []))
        return instance

    def check_devices(self) -> None:
        """Runs once, before the workers start: refuse a device that is not there or cannot run what is served."""
        with refusals():
            settings = read_settings(os.environ)
            if settings.device != "cpu" or settings.generation_engine == "vllm":
                from serving.device import check_devices

                check_devices(settings, [choice.entry for choice in self.choices(settings)])

    def choices(self, settings: Settings) -> list[Choice]:
        """The models of this service: a bento's own, else what the settings name in the store."""
        store = ModelStore(store_home(os.environ))
        kinds: tuple[Kind, ...] = self.inner.kinds
        if self.bento is None:
            return choose(settings, kinds, store)
        packed = [(str(info.tag), Path(info.to_model().resolve().path)) for info in self.bento.info.all_models]
        return choose_packed(settings, kinds, packed, store)


class ModelsOnDemand:
    """The models of a service as BentoML sees them; worked out each time it looks, at build and at start."""

    def __init__(self, service: HostedService) -> None:
        self._service = service

    def __iter__(self) -> Iterator[StoredModel]:
        with refusals():
            choices = self._service.choices(read_settings(os.environ))
        return iter([StoredModel(choice.entry) for choice in choices])


class StoredModel(bentoml.models.BentoModel):  # type: ignore[misc]
    """An artifact in the store. BentoML resolves it before it starts workers: that is where its hashes are checked, so
    that a damaged one stops the server at once instead of every worker again and again."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(tag=entry.tag)
        object.__setattr__(self, "path", entry.path)

    def resolve(self, *_: Any) -> Manifest:
        """Check the artifact."""
        with refusals():
            return verify(self.path)


@contextmanager
def refusals() -> Iterator[None]:
    """Turn our refusals into BentoML's, which its command line prints without a traceback."""
    try:
        yield
    except Cancelled:
        raise asyncio.CancelledError from None  # the caller has left: there is nobody to answer
    except (SluiceError, SettingsRefused) as error:
        status = status_of(error) if isinstance(error, SluiceError) else 500
        raise BentoMLException(str(error), error_code=HTTPStatus(status)) from None


class Hosted:
    """What the three services have in common: they load their models in the worker and close them at its end."""

    kinds: ClassVar[tuple[Kind, ...]]
    service: ClassVar[HostedService]

    def __init__(self) -> None:
        environ = os.environ
        # BentoML counts workers from 1; without a server there is none.
        settings = read_settings(environ).on_worker((bentoml.server_context.worker_index or 1) - 1)
        log_to_stdout(settings)
        for warning in misspelt(environ):
            logger.warning(warning)
        logger.info("interpreter and imports took %.2f s", age_s(psutil.Process()))
        use_own_metrics_directory(os.getppid())
        # A request's few texts are tokenised on the thread that asks: handing them to a pool costs as much again.
        environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self.room = Room.open(self.service.choices(settings), settings)

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def prepare() -> None:
        """Runs once, before the workers start: refuse bad settings, make room for the metrics."""
        with refusals():
            settings = read_settings(os.environ)
            if settings.traces_exporter != "none":
                exporter_class(settings.traces_exporter)
        make_metrics_directory()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Finish what the engines run, send the last spans."""
        self.room.close()
        if self.service.gate is not None:
            self.service.gate.close()


class MatchingMethods(Hosted):
    """Match, rerank and embed for BentoML's typed clients: the same engine, limits and answers as the HTTP contract."""

    @bentoml.api(route="/bentoml/match")  # type: ignore[untyped-decorator]
    async def match(
        self, pairs: list[PairIn], model: str | None = None, truncate: bool = True, threshold: float | None = None
    ) -> MatchResponse:
        """Score pairs, as POST /v1/match does."""
        from serving import matching

        fields = {"pairs": pairs, "model": model, "truncate": truncate, "threshold": threshold}
        with refusals():
            request = checked(MatchRequest, fields)
            return MatchResponse.model_validate(await matching.match(self.room, current_call(), request))

    @bentoml.api(route="/bentoml/rerank")  # type: ignore[untyped-decorator]
    async def rerank(
        self,
        query: str,
        documents: list[str],
        model: str | None = None,
        top_n: int | None = None,
        return_documents: bool = False,
    ) -> RerankResponse:
        """Order documents by relevance, as POST /v1/rerank does."""
        from serving import matching

        fields = {"query": query, "documents": documents, "model": model, "top_n": top_n}
        with refusals():
            request = checked(RerankRequest, fields | {"return_documents": return_documents})
            return RerankResponse.model_validate(await matching.rerank(self.room, current_call(), request))

    @bentoml.api(route="/bentoml/embed")  # type: ignore[untyped-decorator]
    async def embed(
        self, texts: list[str], model: str | None = None, dimensions: int | None = None, truncate: bool = True
    ) -> EmbeddingsResponse:
        """Embed texts, as POST /v1/embeddings does."""
        from serving import embeddings

        fields = {"input": texts, "model": model, "dimensions": dimensions, "truncate": truncate}
        with refusals():
            request = checked(EmbeddingsRequest, fields)
            return EmbeddingsResponse.model_validate_json(
                await embeddings.embeddings(self.room, current_call(), request)
            )


class GenerationMethods(Hosted):
    """Completion for BentoML's typed clients."""

    @bentoml.api(route="/bentoml/generate")  # type: ignore[untyped-decorator]
    async def generate(
        self,
        prompt: str,
        model: str | None = None,
        max_tokens: int = 16,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repetition_penalty: float = 1.0,
        min_tokens: int = 0,
        seed: int | None = None,
        stop: list[str] | None = None,
    ) -> AsyncGenerator[str, None]:
        """Stream the text that continues `prompt`, piece by piece."""
        from serving import completions

        fields: dict[str, Any] = {"prompt": prompt, "model": model, "max_tokens": max_tokens, "stop": stop}
        fields |= {"temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p, "seed": seed}
        fields |= {"presence_penalty": presence_penalty, "frequency_penalty": frequency_penalty}
        fields |= {"repetition_penalty": repetition_penalty, "min_tokens": min_tokens}
        with refusals():
            request = checked(CompletionRequest, fields)
            running = await completions.start(self.room, current_call(), request)
            async with aclosing(running.batches()) as batches:
                async for batch in batches:
                    if text := "".join(piece.text for _, piece in batch if not isinstance(piece, PromptScores)):
                        yield text


def age_s(process: psutil.Process) -> float:
    """Seconds since a process began. psutil takes the time of boot in whole seconds; a difference to that is exact."""
    began_s: float = process.create_time() - psutil.boot_time()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began_s


def checked(model: type[Request], fields: dict[str, Any]) -> Request:
    """A request model from a typed call's arguments. Raises InvalidInput."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise from_validation(error, list(model.model_fields)) from None


def make_metrics_directory() -> None:
    """In the parent process: an empty directory for the metrics of its workers.

    BentoML's own is shared by all servers under one BENTOML_HOME, and emptied by each that starts.
    """
    base = Path(BentoMLContainer.prometheus_multiproc_dir.get())
    own = metrics_directory(base, os.getpid())
    for other in base.parent.glob(f"{base.name}-{socket.gethostname()}-*"):
        pid = other.name.rpartition("-")[2]
        if other == own or not Path("/proc", pid).exists():
            shutil.rmtree(other, ignore_errors=True)
    own.mkdir(parents=True)
    atexit.register(shutil.rmtree, own, ignore_errors=True)


def use_own_metrics_directory(parent: int) -> None:
    """In a worker, before its first metric: write to the directory that the parent process has made."""
    given = os.environ.get(METRICS_DIRECTORY)
    own = metrics_directory(Path(given), parent) if given else None
    if own is None or not own.is_dir():
        return
    os.environ[METRICS_DIRECTORY] = str(own)


def metrics_of_all_workers() -> bytes:
    """What the workers of this server have counted, in Prometheus' text format.

    A worker that was killed left its gauges behind, which would be added to those of its successor. Its counters stay:
    they may not go back.
    """
    directory = os.environ.get(METRICS_DIRECTORY)
    for gauges in Path(directory).glob("gauge_live*_*.db") if directory else ():
        if not _is_sibling(gauges.stem.rpartition("_")[2]):
            gauges.unlink(missing_ok=True)
    text: bytes = BentoMLContainer.metrics_client.get().generate_latest()
    return text


def _is_sibling(pid: str) -> bool:
    """Whether it is a process of this server: a number that the system has given to another one is not."""
    try:
        status = Path("/proc", pid, "status").read_text(encoding="utf-8")
    except OSError:
        return False
    return f"PPid:\t{os.getppid()}\n" in status and "State:\tZ" not in status


def metrics_directory(base: Path, parent: int) -> Path:
    """Beside BentoML's, one for each server."""
    return base.with_name(f"{base.name}-{socket.gethostname()}-{parent}")
