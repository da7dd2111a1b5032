"""Promotions in a running worker: who serves when, who is closed when, what is refused. Engines are real."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.backends.fake import write_fake_artifact
from runtime.contract import Encoded, Sampling
from runtime.encoder import EncoderEngine
from runtime.errors import ArtifactRefused, NotReady
from runtime.generation import GenerationEngine
from runtime.manifest import Kind, read_manifest, replace_manifest
from runtime.store import ModelStore
from serving.app import create_app
from serving.call import Call, never
from serving.catalogue import choose
from serving.follower import Follower
from serving.gate import Gate
from serving.room import Room
from serving.schemas import ModelList
from serving.settings import Settings
from tests.unit.serving.asgi import exchange
from tests.unit.serving.conftest import KINDS
from tests.unit.serving.test_metrics import values

pytestmark = pytest.mark.unit
PAIR = {"pairs": [{"text_a": "a b", "text_b": "b a"}]}


class Worker:
    """A room over a store of its own, and what follows the store for it."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.store = ModelStore(home)
        self.settings = Settings.model_validate({"access_log": False, "threads": 1, **settings})
        self.room = Room.open(choose(self.settings, KINDS, self.store), self.settings)
        self.follower = Follower(self.room, KINDS, self.store)
        self.gate = Gate(create_app(self.room), None, self.settings, self.room.metrics, self.room.lifecycle)

    @property
    def tags(self) -> dict[str, str]:
        return {model.id: model.tag for model in self.room.catalogue.served}

    @property
    def cards(self) -> dict[str, dict[str, Any]]:
        return {model.id: model.card for model in self.room.catalogue.served}

    def swaps(self, model: str, outcome: str) -> float:
        text = self.room.metrics.text().decode()
        return values(text).get(f'sluice_swaps_total{{model="{model}",outcome="{outcome}"}}', 0)

    async def match(self, **fields: Any) -> int:
        return (await exchange(self.gate, "POST", "/v1/match", {**PAIR, **fields})).status


def put(home: Path, name: str, version: str, kind: Kind = "matching", **knobs: float) -> str:
    """A published artifact that no stage points to."""
    write_fake_artifact(home / "models" / name / version, kind, **knobs)
    return f"{name}:{version}"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """matching v1 in production, v2 and v3 published; v3 loads slowly."""
    store = ModelStore(tmp_path)
    for version, latency_s in (("v1", 0.2), ("v2", 0.0), ("v3", 0.2)):
        put(tmp_path, "matching", version, latency_s=latency_s)
    store.promote("matching:v1")
    return tmp_path


def run(home: Path, scene: Callable[[Worker], Awaitable[None]], **settings: Any) -> None:
    """Play a scene with a worker, and close it."""

    async def play() -> None:
        worker = Worker(home, **settings)
        try:
            await asyncio.wait_for(scene(worker), 30)
        finally:
            worker.room.close()

    asyncio.run(play())


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.005)


def closed(engine: EncoderEngine | GenerationEngine) -> bool:
    try:
        if isinstance(engine, EncoderEngine):
            engine.submit([Encoded((1,), (0,))], lambda outcome: None)
        else:
            engine.submit([1], Sampling(max_tokens=1), lambda event: None)
    except NotReady:
        return True
    return False


def test_a_request_is_answered_by_the_engine_it_began_with(home: Path) -> None:
    async def scene(worker: Worker) -> None:
        old = worker.room.catalogue.get("matching")
        running = asyncio.ensure_future(worker.match())
        await until(lambda: old.leases.held == 1)
        worker.store.promote("matching:v2")
        await worker.follower.look()
        assert worker.tags == {"matching": "matching:v2"}
        assert not running.done()
        assert [model.engine for model in worker.room.retiring] == [old.engine]
        assert not closed(old.engine)
        assert await worker.match() == 200  # by the new one, while the old one finishes
        assert await running == 200
        await until(lambda: not worker.room.retiring)
        assert closed(old.engine)
        assert worker.swaps("matching", "switched") == 1

    run(home, scene)


def test_an_engine_that_was_looked_up_takes_the_work_that_comes_later(home: Path) -> None:
    """Between the look-up and the queue lies the tokeniser, which may run for long in a thread."""

    async def scene(worker: Worker) -> None:
        call = Call([], never)
        old = worker.room.begin(call, ("matching",), None)
        worker.store.promote("matching:v2")
        await worker.follower.look()
        await asyncio.sleep(0.1)
        assert not closed(old.engine)
        call.release()
        await until(lambda: closed(old.engine))

    run(home, scene)


def test_a_stream_ends_on_its_model(home: Path) -> None:
    put(home, "generation", "v1", "generation", latency_s=0.005)
    put(home, "generation", "v2", "generation", latency_s=0.005)
    ModelStore(home).promote("generation:v1")

    async def scene(worker: Worker) -> None:
        body = {"prompt": "x", "max_tokens": 100, "stream": True}
        old = worker.room.catalogue.get("generation")
        running = asyncio.ensure_future(exchange(worker.gate, "POST", "/v1/completions", body))
        await until(lambda: old.leases.held == 1)
        worker.store.promote("generation:v2")
        await worker.follower.look()
        assert worker.tags["generation"] == "generation:v2"
        assert not running.done()
        reply = await running
        assert reply.events()[-2]["choices"][0]["finish_reason"] == "length"
        assert len(reply.events()) == 102
        await until(lambda: closed(old.engine))

    run(home, scene)


def test_a_rollback_is_followed_too(home: Path) -> None:
    async def scene(worker: Worker) -> None:
        worker.store.promote("matching:v2")
        await worker.follower.look()
        worker.store.rollback("matching")
        await worker.follower.look()
        assert worker.tags == {"matching": "matching:v1"}
        assert worker.swaps("matching", "switched") == 2

    run(home, scene)


def test_what_is_refused_changes_nothing_and_is_tried_once(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    (home / "models/matching/v2/fake.json").write_text("{}")

    async def scene(worker: Worker) -> None:
        old = worker.room.catalogue.get("matching")
        worker.store.promote("matching:v2")
        await worker.follower.look()
        (line,) = errors(caplog)
        for words in ("matching:v2 is not served as matching", "altered: fake.json", "models rollback matching"):
            assert words in line
        card = worker.cards["matching"]
        assert (card["tag"], card["stage"], card["pending"]) == ("matching:v1", "previous", None)
        assert worker.room.catalogue.get("matching").engine is old.engine
        assert await worker.match() == 200

        # Another name moves: the refused one is not loaded again.
        put(worker.store.home, "answers", "v1")
        worker.store.promote("answers:v1")
        await worker.follower.look()
        assert worker.tags == {"matching": "matching:v1", "answers": "answers:v1"}
        assert worker.swaps("matching", "refused") == 1

        # Its own pointer moves: rolled back it serves on, repaired and promoted again it is tried again.
        worker.store.rollback("matching")
        put(worker.store.home, "matching", "v2")
        worker.store.promote("matching:v2")
        await worker.follower.look()
        assert worker.tags["matching"] == "matching:v2"
        assert worker.swaps("matching", "refused") == 1

    run(home, scene)


def test_a_version_that_fails_at_its_warm_up_is_refused(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its files hold and it loads, but it can compute nothing."""
    broken = home / "models/matching/v2"
    replace_manifest(broken, read_manifest(broken).model_copy(update={"pad_token_id": -1}))
    with pytest.raises(ArtifactRefused, match="fails at its warm-up"):
        Worker(home, matching_model="matching:v2")

    async def scene(worker: Worker) -> None:
        worker.store.promote("matching:v2")
        await worker.follower.look()
        assert worker.tags == {"matching": "matching:v1"}
        (line,) = errors(caplog)
        assert "fails at its warm-up" in line

    run(home, scene)


def test_promotions_during_a_load_end_at_the_last(home: Path) -> None:
    async def scene(worker: Worker) -> None:
        seen: set[str] = set()
        old = worker.room.catalogue.get("matching")
        worker.store.promote("matching:v3")
        look = asyncio.ensure_future(worker.follower.look())
        await until(lambda: worker.cards["matching"]["pending"] == "matching:v3")
        reply = await exchange(worker.gate, "GET", "/v1/models")
        ModelList.model_validate_json(reply.body)
        assert reply.json()["data"][0]["pending"] == "matching:v3"
        assert worker.room.catalogue.get("matching").engine is old.engine
        worker.store.promote("matching:v2")
        while not look.done():
            seen |= set(worker.tags.values())
            await asyncio.sleep(0)
        await look
        assert seen | set(worker.tags.values()) == {"matching:v1", "matching:v2"}  # v3 never answered
        assert worker.cards["matching"]["pending"] is None
        assert worker.swaps("matching", "switched") == 1

    run(home, scene)


def test_a_fixed_version_stays_and_its_card_tells_the_stage(home: Path) -> None:
    async def scene(worker: Worker) -> None:
        engine = worker.room.catalogue.get("matching:v1").engine
        assert worker.cards["matching:v1"]["stage"] == "production"
        worker.store.promote("matching:v2")
        await worker.follower.look()
        assert worker.tags == {"matching:v1": "matching:v1"}
        assert worker.cards["matching:v1"]["stage"] == "previous"
        assert worker.room.catalogue.get("matching:v1").engine is engine
        assert not worker.room.retiring

    run(home, scene, matching_model="matching:v1")


@pytest.mark.parametrize("reference", ["matching", "matching:production", "production"])
def test_every_reference_by_stage_follows(home: Path, reference: str) -> None:
    async def scene(worker: Worker) -> None:
        worker.store.promote("matching:v2")
        await worker.follower.look()
        assert set(worker.tags.values()) == {"matching:v2"}

    run(home, scene, matching_model=reference)


def test_another_stage_follows_its_own_pointer(home: Path) -> None:
    ModelStore(home).promote("matching:v2", "candidate")

    async def scene(worker: Worker) -> None:
        worker.store.promote("matching:v3", "candidate")
        await worker.follower.look()
        assert worker.tags == {"matching:candidate": "matching:v3"}
        assert worker.cards["matching:candidate"]["stage"] == "candidate"

    run(home, scene, matching_model="matching:candidate")


def test_names_come_and_go_and_an_empty_store_is_no_wish(home: Path) -> None:
    async def scene(worker: Worker) -> None:
        put(worker.store.home, "answers", "v1")
        put(worker.store.home, "stories", "v1", "generation")
        worker.store.promote("answers:v1")
        worker.store.promote("stories:v1")
        await worker.follower.look()
        assert list(worker.tags) == ["matching", "answers", "stories"]
        assert (await exchange(worker.gate, "POST", "/v1/completions", {"prompt": "x"})).status == 200
        worker.room.set_levels()

        gone = worker.room.catalogue.get("answers")
        (worker.store.home / "stages/answers.json").unlink()
        await worker.follower.look()
        assert list(worker.tags) == ["matching", "stories"]
        await until(lambda: not worker.room.retiring)
        assert closed(gone.engine)
        assert await worker.match(model="answers") == 404
        worker.room.set_levels()
        assert values(worker.room.metrics.text().decode())['sluice_running_items{model="answers"}'] == 0

        (worker.store.home / "stages").rename(worker.store.home / "elsewhere")
        await worker.follower.look()
        assert list(worker.tags) == ["matching", "stories"]

    run(home, scene)


def test_a_damaged_pointer_stops_its_own_name_only(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(home, "answers", "v1")
    ModelStore(home).promote("answers:v1")

    async def scene(worker: Worker) -> None:
        (worker.store.home / "stages/answers.json").write_text("{")
        worker.store.promote("matching:v2")
        await worker.follower.look()
        assert worker.tags == {"matching": "matching:v2", "answers": "answers:v1"}
        (line,) = errors(caplog)
        assert "answers.json is damaged" in line

    run(home, scene)


def test_the_gauges_of_a_model_add_up_both_engines(home: Path) -> None:
    async def scene(worker: Worker) -> None:
        old = worker.room.catalogue.get("matching")
        running = asyncio.ensure_future(worker.match())
        await until(lambda: old.engine.load().running_items == 1)
        worker.store.promote("matching:v2")
        await worker.follower.look()
        worker.room.set_levels()
        assert values(worker.room.metrics.text().decode())['sluice_running_items{model="matching"}'] == 1
        await running

    run(home, scene)


@pytest.mark.parametrize("kind", KINDS)
def test_a_closed_engine_is_freed_at_once(tmp_path: Path, kind: Kind) -> None:
    """A garbage collection may be long in coming, and the weights of two models may not fit for so long."""
    store = ModelStore(tmp_path)
    put(tmp_path, kind, "v1", kind)
    put(tmp_path, kind, "v2", kind)
    store.promote(f"{kind}:v1")
    paths = {
        "matching": ("/v1/match", PAIR),
        "embedding": ("/v1/embeddings", {"input": "x"}),
        "generation": ("/v1/completions", {"prompt": "x"}),
    }

    async def scene(worker: Worker) -> None:
        engine = worker.room.catalogue.get(kind).engine
        backend = weakref.ref(getattr(engine, "_decoder", engine)._backend)
        del engine
        assert (await exchange(worker.gate, "POST", *paths[kind])).status == 200
        store.promote(f"{kind}:v2")
        await worker.follower.look()
        await until(lambda: not worker.room.retiring and backend() is None)

    gc.collect()
    gc.disable()
    try:
        run(tmp_path, scene)
    finally:
        gc.enable()


def test_nothing_is_loaded_while_draining(home: Path) -> None:
    async def scene(worker: Worker) -> None:
        worker.store.promote("matching:v3")
        look = asyncio.ensure_future(worker.follower.look())
        await until(lambda: worker.cards["matching"]["pending"] is not None)
        worker.room.lifecycle.draining = True
        await look
        assert worker.tags == {"matching": "matching:v1"}
        assert worker.cards["matching"]["pending"] is None

    run(home, scene)


def test_a_store_that_cannot_be_read_is_told_once_and_asked_again(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(worker: Worker) -> None:
        stages = worker.store.home / "stages"
        stages.rename(stages.with_name("hidden"))
        stages.symlink_to("stages")  # a loop: every look fails
        task = asyncio.ensure_future(worker.follower.run())
        await asyncio.sleep(0.2)
        (line,) = errors(caplog)
        assert "cannot be followed" in line
        stages.unlink()
        stages.with_name("hidden").rename(stages)
        worker.store.promote("matching:v2")
        await until(lambda: worker.tags == {"matching": "matching:v2"})
        task.cancel()

    run(home, scene, follow_s=0.01)
