"""What the routes of a worker share, and the one way to open and close it."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from runtime.manifest import Kind
from serving.call import Call
from serving.catalogue import Catalogue, Choice, Served
from serving.lifecycle import Lifecycle
from serving.mailbox import Mailbox
from serving.metrics import EngineObserver, Metrics
from serving.settings import Settings

# Gauges are set this often: with several workers, a scrape reaches only one of them, and the others' must be fresh.
LEVELS_EVERY_S = 1.0
# How long a thread may keep the interpreter from one that waits for it. An engine thread that comes back from a batch
# needs it for a moment to start the next one; with Python's default of 5 ms its core would idle meanwhile.
SWITCH_S = 0.0005


@dataclass(slots=True)
class Room:
    """Settings, loaded models, metrics and state of one worker."""

    settings: Settings
    catalogue: Catalogue
    metrics: Metrics
    lifecycle: Lifecycle
    _mailbox: Mailbox | None = field(default=None)
    _ticker: asyncio.Task[None] | None = field(default=None)

    @classmethod
    def open(cls, choices: Sequence[Choice], settings: Settings) -> Room:
        """Load and warm up every chosen model. Raises ArtifactRefused."""
        metrics = Metrics()
        observers = {choice.id: EngineObserver(metrics, choice.id) for choice in choices}
        catalogue = Catalogue.open(choices, settings, observers)
        for observer in observers.values():
            observer.listening = True
        return cls(settings, catalogue, metrics, Lifecycle(settings.drain_notice_s, settings.drain_timeout_s))

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Keep the gauges fresh and drain on SIGTERM, from now on."""
        sys.setswitchinterval(SWITCH_S)
        self.lifecycle.drain_on_sigterm(loop)
        self._ticker = loop.create_task(self._tick())

    def close(self) -> None:
        """Finish what the engines run."""
        if self._ticker:
            self._ticker.cancel()
        self.catalogue.close()

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

    def set_levels(self) -> None:
        """Set the gauges now."""
        self.metrics.levels(self.catalogue.served, self.lifecycle.in_flight)

    async def _tick(self) -> None:
        while True:
            self.set_levels()
            await asyncio.sleep(LEVELS_EVERY_S)


def log_to_stdout(settings: Settings) -> None:
    """Let this room's and the engine's log lines through, and the access log as bare JSON lines."""
    for name in ("serving", "runtime"):
        logging.getLogger(name).setLevel(logging.INFO)
    access = logging.getLogger("sluice.access")
    access.propagate = False
    access.setLevel(logging.INFO if settings.access_log else logging.CRITICAL)
    if not access.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        access.addHandler(handler)
