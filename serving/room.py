"""What the routes of a worker share, and the one way to open, change and close it."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.manifest import Kind
from serving.call import Call
from serving.catalogue import Catalogue, Choice, Served
from serving.lifecycle import Lifecycle
from serving.mailbox import Bell, Mailbox
from serving.metrics import EngineObserver, Metrics
from serving.settings import Settings

logger = logging.getLogger(__name__)
# Gauges are set this often: with several workers, a scrape reaches only one of them, and the others' must be fresh.
LEVELS_EVERY_S = 1.0
# How long a thread may keep the interpreter from one that waits for it. An engine thread that comes back from a batch
# needs it for a moment to start the next one; with Python's default of 5 ms its core would idle meanwhile.
SWITCH_S = 0.0005


@dataclass(slots=True)
class Room:
    """Settings, loaded models, metrics and state of one worker. `retiring`: models that are found no more, and whose
    last requests still run."""

    settings: Settings
    catalogue: Catalogue
    metrics: Metrics
    lifecycle: Lifecycle
    retiring: list[Served] = field(default_factory=list)
    _mailbox: Mailbox | None = field(default=None)
    _bell: Bell | None = field(default=None)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @classmethod
    def open(cls, choices: Sequence[Choice], settings: Settings) -> Room:
        """Load and warm up every chosen model. Raises ArtifactRefused."""
        metrics = Metrics()
        observers = {choice.id: EngineObserver(metrics, choice.id) for choice in choices}
        catalogue = Catalogue.open(choices, settings, observers)
        for observer in observers.values():
            observer.listening = True
        return cls(settings, catalogue, metrics, Lifecycle(settings.drain_notice_s, settings.drain_timeout_s))

    def start(self, loop: asyncio.AbstractEventLoop, *background: Coroutine[Any, Any, None]) -> None:
        """Keep the gauges fresh, drain on SIGTERM and run `background`, from now on."""
        sys.setswitchinterval(SWITCH_S)
        self.lifecycle.drain_on_sigterm(loop)
        for coroutine in (self._tick(), *background):
            self._spawn(coroutine)

    def close(self) -> None:
        """Finish what the engines run."""
        for task in self._tasks:
            task.cancel()
        for model in (*self.catalogue.served, *self.retiring):
            model.engine.close()

    def begin(self, call: Call, kinds: Sequence[Kind], name: str | None) -> Served:
        """The model that answers `call`, which keeps it to its end. Raises NotReady, ModelNotFound, WrongKind.

        Looking it up and holding it are one step of the event loop: no swap comes between.
        """
        self.lifecycle.check()
        served = self.catalogue.find(kinds, name)
        call.hold(served.leases)
        call.model, call.tag = served.id, served.tag
        return served

    def mailbox(self, loop: asyncio.AbstractEventLoop) -> Mailbox:
        """The mailbox of the running loop."""
        if self._mailbox is None or self._mailbox.loop is not loop:
            self._mailbox = Mailbox(loop)
        return self._mailbox

    def bell(self, loop: asyncio.AbstractEventLoop) -> Bell:
        """The bell of the running loop."""
        if self._bell is None or self._bell.loop is not loop:
            self._bell = Bell(loop)
        return self._bell

    def serve(self, models: Sequence[Served]) -> None:
        """From now on these are found, and no others. An engine that is not among them goes on for the requests that
        hold it, and is closed after the last."""
        before, self.catalogue = self.catalogue.served, Catalogue(models)
        kept = {id(model.engine) for model in models}
        for model in before:
            if id(model.engine) not in kept:
                self.retiring.append(model)
                model.leases.when_free(lambda model=model: self._spawn(self._retire(model)))  # type: ignore[misc]

    def set_levels(self) -> None:
        """Set the gauges now."""
        self.metrics.levels((*self.catalogue.served, *self.retiring), self.lifecycle.in_flight)

    async def _retire(self, model: Served) -> None:
        await asyncio.to_thread(model.engine.close)  # waits for the engine's threads
        self.retiring.remove(model)
        logger.info("%s is closed", model.tag)

    async def _tick(self) -> None:
        while True:
            self.set_levels()
            await asyncio.sleep(LEVELS_EVERY_S)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def log_to_stdout(settings: Settings) -> None:
    """Let this room's and the engine's log lines through, and the access log as bare JSON lines."""
    for name in ("serving", "runtime"):
        logging.getLogger(name).setLevel(logging.INFO)
    # Ours is the access log. The HTTP server would put a line of its own together for every answer, and drop it.
    logging.getLogger("uvicorn.access").propagate = False
    access = logging.getLogger("sluice.access")
    access.propagate = False
    access.setLevel(logging.INFO if settings.access_log else logging.CRITICAL)
    if not access.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        access.addHandler(handler)
