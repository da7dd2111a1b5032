"""Names, stages and their history; two writers at once."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from runtime.backends.fake import write_fake_artifact
from runtime.errors import ArtifactRefused, InvalidInput, ModelNotFound
from runtime.store import ModelStore, store_home

pytestmark = pytest.mark.unit


def put(home: Path, tag: str, kind: str = "matching", latency_s: float = 0.0) -> None:
    write_fake_artifact(home / "models" / tag.replace(":", "/"), kind, latency_s=latency_s)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    for tag in ("m:1", "m:2", "m:3"):
        put(tmp_path, tag)
    put(tmp_path, "g:1", "generation")
    return ModelStore(tmp_path)


def test_every_way_to_name_a_model(store: ModelStore) -> None:
    store.promote("m:2")
    store.promote("g:1")
    assert store.resolve("m").tag == "m:2"
    assert store.resolve("m:3").tag == "m:3"
    assert store.resolve("m:production").tag == "m:2"
    assert store.resolve("production", kind="generation").tag == "g:1"
    with pytest.raises(ModelNotFound, match="g:1, m:2"):
        store.resolve("production")


def test_a_bare_name_without_production_is_the_newest(store: ModelStore) -> None:
    assert store.resolve("m").tag == "m:3"


def test_promote_then_rollback_swaps_and_keeps_history(store: ModelStore) -> None:
    store.promote("m:1")
    store.promote("m:2", why="faster")
    assert store.resolve("m:previous").tag == "m:1"
    assert store.rollback("m").tag == "m:1"
    assert store.resolve("m:previous").tag == "m:2"
    history = [(move.stage, move.tag, move.why) for move in store.pointers("m").history]
    assert history[0] == ("production", "m:1", "promoted")
    assert ("production", "m:2", "faster") in history
    assert history[-2:] == [("production", "m:1", "rolled back"), ("previous", "m:2", "rolled back")]


def test_promoting_the_holder_again_changes_nothing(store: ModelStore) -> None:
    store.promote("m:1")
    store.promote("m:1")
    assert len(store.pointers("m").history) == 1


@pytest.mark.parametrize(
    ("reference", "error", "message"),
    [
        ("x", ModelNotFound, "The store .* has: g, m"),
        ("m:9", ModelNotFound, "No model is tagged m:9"),
        ("m:candidate", ModelNotFound, "No version of 'm' is candidate"),
        ("../m", InvalidInput, "not a model reference"),
        ("m:..", InvalidInput, "not a model reference"),
        ("", InvalidInput, "not a model reference"),
    ],
)
def test_a_name_that_is_not_there(store: ModelStore, reference: str, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        store.resolve(reference)


def test_rollback_needs_something_to_go_back_to(store: ModelStore) -> None:
    store.promote("m:1")
    with pytest.raises(ModelNotFound, match="no previous"):
        store.rollback("m")


def test_a_damaged_pointer_file_is_named(store: ModelStore) -> None:
    store.promote("m:1")
    (store.home / "stages" / "m.json").write_text("{")
    with pytest.raises(ArtifactRefused, match=r"m\.json is damaged"):
        store.resolve("m")


def _promote_often(home: Path, tags: list[str]) -> None:
    store = ModelStore(home)
    for tag in tags:
        store.promote(tag)


def test_two_writers_lose_no_move_and_never_corrupt(store: ModelStore) -> None:
    context = multiprocessing.get_context("fork")
    writers = [
        context.Process(target=_promote_often, args=(store.home, tags * 20))
        for tags in (["m:1", "m:2"], ["m:3", "m:2"])
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        store.pointers("m")  # a reader in between always sees a whole file
    assert [writer.exitcode for writer in writers] == [0, 0]
    pointers = store.pointers("m")
    # Every production move that replaced another names the one it replaced: the chain has no gap.
    moves = [move for move in pointers.history if move.stage == "production"]
    replaced = [move.tag for move in pointers.history if move.stage == "previous"]
    assert replaced == [move.tag for move in moves[:-1]]
    assert pointers.stages["production"] == moves[-1].tag


def test_the_home_is_bentomls(tmp_path: Path) -> None:
    assert store_home({"BENTOML_HOME": str(tmp_path)}) == tmp_path
    assert store_home({}) == Path.home() / "bentoml"
