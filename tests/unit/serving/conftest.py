"""Fake artifacts in a store, and the app over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from runtime.backends.fake import write_fake_artifact
from runtime.manifest import Kind
from runtime.store import ModelStore
from serving.app import create_app
from serving.catalogue import choose
from serving.gate import Gate
from serving.room import Room
from serving.settings import Settings

KINDS: tuple[Kind, ...] = ("matching", "embedding", "generation")


def publish(store: ModelStore, name: str, kind: Kind, version: str = "v1", **knobs: float) -> None:
    """Put a fake artifact into the store, in production."""
    write_fake_artifact(store.home / "models" / name / version, kind, **knobs)
    store.promote(f"{name}:{version}")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """One model of each kind, named like it; and slow ones."""
    store = ModelStore(tmp_path_factory.mktemp("store"))
    for kind in KINDS:
        publish(store, kind, kind)
    publish(store, "slow-matching", "matching", latency_s=0.05)
    publish(store, "slow-embedding", "embedding", latency_s=0.05)
    publish(store, "slow-generation", "generation", latency_s=0.02)
    return store


MakeApp = Callable[..., tuple[Gate, Room]]


@pytest.fixture(scope="module")
def make_app(store: ModelStore) -> Iterator[MakeApp]:
    """Apps with settings of their own; closed at the end of the module."""
    rooms: list[Room] = []

    def make(kinds: tuple[Kind, ...] = KINDS, **settings: Any) -> tuple[Gate, Room]:
        chosen = Settings.model_validate({"access_log": False, "threads": 1, **settings})
        room = Room.open(choose(chosen, kinds, store), chosen)
        rooms.append(room)
        return Gate(create_app(room), None, chosen, room.metrics, room.lifecycle), room

    yield make
    for room in rooms:
        room.close()


@pytest.fixture(scope="module")
def app(make_app: MakeApp) -> Gate:
    """The app with default settings."""
    return make_app()[0]
