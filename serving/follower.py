"""Promotions and rollbacks in a running server: the stage pointers are watched, and what they name is loaded, warmed up
and put in the place of what is served, without a request that fails (docs/adr/0005-hot-swap.md).

Stats, hashing, loading and warm-up happen in one thread, one model at a time, while the old models serve. What requests
find changes on the event loop, in one step.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from runtime.errors import SluiceError
from runtime.manifest import Kind
from runtime.store import ModelStore
from serving.catalogue import Choice, Served, Unresolved, load, look_up, shown_stage
from serving.metrics import EngineObserver
from serving.room import Room

logger = logging.getLogger(__name__)
T = TypeVar("T")
Marks = Mapping[str, Hashable]  # of ModelStore.marks


@dataclass(frozen=True, slots=True)
class Wish:
    """What the settings and the pointers mean at one moment. `stages`: of every version that is served or wanted."""

    choices: Mapping[str, Choice]  # by id, in the order a new worker would have
    unresolved: Sequence[Unresolved]
    stages: Mapping[str, str | None]  # by tag


class Follower:
    """Keeps a worker's models at what the settings and the store's stage pointers mean."""

    def __init__(self, room: Room, kinds: Sequence[Kind], store: ModelStore) -> None:
        self._room = room
        self._kinds = kinds
        self._store = store
        self._thread = ThreadPoolExecutor(1, "follower")
        self._seen: Marks | None = None
        # Id or reference -> what was refused under it: tried and told once, until its pointer moves.
        self._refused: dict[str, Hashable] = {}
        self._trouble = ""

    async def run(self) -> None:
        """Look every `follow_s` seconds until the worker drains."""
        while not self._room.lifecycle.draining:
            await asyncio.sleep(self._room.settings.follow_s)
            try:
                await self.look()
                self._trouble = ""
            except Exception as error:  # the store cannot be reached, say: it is asked again
                self._seen = None
                if repr(error) != self._trouble:
                    self._trouble = repr(error)
                    logger.exception("The store %s cannot be followed; what is served stays.", self._store.home)

    async def look(self) -> None:
        """Bring what is served to what the pointers say; returns when they have not moved meanwhile."""
        while not self._room.lifecycle.draining and (marks := await self._off_loop(self._store.marks)) != self._seen:
            self._seen = marks
            await self._follow(await self._off_loop(lambda: self._read(list(self._tags().values()))), marks)

    async def _follow(self, wish: Wish, marks: Marks) -> None:
        for each in wish.unresolved:
            self._refuse(each.name, str(each.error), f"{each.name} cannot be followed", each.error)
        self._arrange(wish)
        for id, choice in wish.choices.items():
            tag, identity = choice.entry.tag, (choice.entry.tag, marks.get(choice.entry.name))
            if self._tags().get(id) == tag:
                self._refused.pop(id, None)
            elif self._refused.get(id) != identity and not self._room.lifecycle.draining:
                try:
                    await self._bring(choice, wish)
                except Exception as error:
                    fix = f"promote a version that holds, or `python -m training models rollback {choice.entry.name}`"
                    self._refuse(id, identity, f"{tag} is not served as {id} ({fix})", error)
        # A model leaves only when all that shall be there is there: an unmounted store, or a successor that is
        # refused, is no wish to serve less.
        gone = self._tags().keys() - wish.choices.keys()
        if gone and wish.choices and not wish.unresolved and wish.choices.keys() <= self._tags().keys():
            self._room.serve([model for model in self._room.catalogue.served if model.id not in gone])
            for id in gone:
                self._room.metrics.swapped(id, "removed")
                logger.info("%s is in production no more and is taken out", id)

    async def _bring(self, choice: Choice, wish: Wish) -> None:
        """Load one model and switch to it. Raises ArtifactRefused, and whatever a load may raise."""
        before, tag = self._tags().get(choice.id), choice.entry.tag
        logger.info("loading %s to serve it as %s in the place of %s", tag, choice.id, before or "nothing")
        observer = EngineObserver(self._room.metrics, choice.id)
        self._arrange(wish, pending=choice)
        try:
            loaded = await self._off_loop(lambda: self._load(choice, observer))
        finally:
            self._arrange(wish)
        if loaded is None:
            self._seen = None
            return
        observer.listening = True
        self._arrange(wish, loaded=loaded)
        self._refused.pop(choice.id, None)
        self._room.metrics.swapped(choice.id, "switched" if before else "added")
        logger.info("%s is served as %s", tag, choice.id)

    def _arrange(self, wish: Wish, *, pending: Choice | None = None, loaded: Served | None = None) -> None:
        """Serve what is served, and `loaded`, in the order of the wish and with cards that tell what holds."""
        models = {model.id: model for model in self._room.catalogue.served}
        if loaded:
            models[loaded.id] = loaded
        order = [*(id for id in wish.choices if id in models), *(id for id in models if id not in wish.choices)]
        arranged = []
        for model in map(models.__getitem__, order):
            stage = wish.stages.get(model.tag, model.card["stage"])
            tag = pending.entry.tag if pending and pending.id == model.id else None
            arranged.append(replace(model, card={**model.card, "stage": stage, "pending": tag}))
        self._room.serve(arranged)

    def _tags(self) -> dict[str, str]:
        return {model.id: model.tag for model in self._room.catalogue.served}

    def _refuse(self, name: str, identity: Hashable, what: str, error: Exception) -> None:
        if self._refused.get(name) == identity:
            return
        self._refused[name] = identity
        self._room.metrics.swapped(name, "refused")
        traceback = None if isinstance(error, SluiceError) else error
        logger.error("%s; what was served stays: %s", what, error, exc_info=traceback)

    # ------------------------------------------------------------ in the thread

    async def _off_loop(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _read(self, served: Sequence[str]) -> Wish:
        """`served`: tags."""
        found = look_up(self._room.settings, self._kinds, self._store)
        choices: dict[str, Choice] = {}
        for each in found:
            if isinstance(each, Choice):
                choices.setdefault(each.id, each)
        stages = {choice.entry.tag: shown_stage(choice.entry.stages) for choice in choices.values()}
        for tag in served:
            with suppress(SluiceError):
                held = self._store.pointers(tag.partition(":")[0]).stages
                stages.setdefault(tag, shown_stage([stage for stage, holder in held.items() if holder == tag]))
        return Wish(choices, [each for each in found if isinstance(each, Unresolved)], stages)

    def _load(self, choice: Choice, observer: EngineObserver) -> Served | None:
        """None: the pointers moved on meanwhile, or the worker drains."""
        loaded = load(choice, self._room.settings, observer)
        now = self._read([]).choices.get(choice.id)
        if self._room.lifecycle.draining or now is None or now.entry.tag != choice.entry.tag:
            loaded.engine.close()
            return None
        return loaded
