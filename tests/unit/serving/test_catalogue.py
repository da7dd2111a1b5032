"""Which models a worker serves, from the store and from a bento, and what it says when there are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import ArtifactRefused, ModelNotFound
from runtime.store import ModelStore
from serving.catalogue import choose, choose_packed
from serving.settings import Settings, read_settings
from tests.unit.serving.conftest import KINDS, publish

pytestmark = pytest.mark.unit


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    store = ModelStore(tmp_path)
    publish(store, "matching", "matching", "v1")
    publish(store, "matching", "matching", "v2")
    publish(store, "stories", "generation", "v1")
    return store


def ids(choices: list) -> list[tuple[str, str]]:  # type: ignore[type-arg]
    return [(choice.id, choice.entry.tag) for choice in choices]


def test_all_that_is_in_production_is_served_the_name_of_the_kind_first(store: ModelStore) -> None:
    publish(store, "answers", "matching", "v1")
    publish(store, "unstaged", "matching", "v1")
    (store.home / "stages/unstaged.json").unlink()
    assert ids(choose(Settings(), KINDS, store)) == [
        ("matching", "matching:v2"),
        ("answers", "answers:v1"),
        ("stories", "stories:v1"),
    ]


def test_a_kind_without_production_is_left_out(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    publish(store, "stories", "generation", "v1")
    assert ids(choose(Settings(), KINDS, store)) == [("stories", "stories:v1")]


def test_any_name_and_several_references(store: ModelStore) -> None:
    environ = {"SLUICE_MATCHING_MODEL": "matching:previous,matching", "SLUICE_GENERATION_MODEL": "stories"}
    assert ids(choose(read_settings(environ), KINDS, store)) == [
        ("matching:previous", "matching:v1"),
        ("matching", "matching:v2"),
        ("stories", "stories:v1"),
    ]


def test_a_stage_alone_is_served_under_the_name(store: ModelStore) -> None:
    settings = read_settings({"SLUICE_GENERATION_MODEL": "production"})
    assert ids(choose(settings, ("generation",), store)) == [("stories", "stories:v1")]


def test_a_store_without_models_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound) as refused:
        choose(Settings(), KINDS, ModelStore(tmp_path))
    for words in ("No matching model", "No generation model", "make demo", "training publish", "SLUICE_MATCHING_MODEL"):
        assert words in str(refused.value)


def test_a_reference_given_by_hand_must_exist(store: ModelStore) -> None:
    with pytest.raises(ModelNotFound, match="SLUICE_GENERATION_MODEL"):
        choose(read_settings({"SLUICE_GENERATION_MODEL": "nope"}), KINDS, store)


def test_a_model_of_another_kind_is_refused(store: ModelStore) -> None:
    with pytest.raises(ArtifactRefused, match="of kind generation, not matching"):
        choose(read_settings({"SLUICE_MATCHING_MODEL": "stories"}), KINDS, store)


def test_one_id_for_two_models_is_refused(store: ModelStore) -> None:
    with pytest.raises(ArtifactRefused, match="named twice"):
        choose(read_settings({"SLUICE_MATCHING_MODEL": "matching,matching"}), KINDS, store)


def packed(store: ModelStore) -> list[tuple[str, Path]]:
    return [(entry.tag, entry.path) for entry in store.entries()]


def test_a_bento_serves_what_it_holds(store: ModelStore, tmp_path: Path) -> None:
    nowhere = ModelStore(tmp_path / "none")
    choices = choose_packed(Settings(), KINDS, packed(store)[1:], nowhere)
    assert ids(choices) == [("matching", "matching:v2"), ("stories", "stories:v1")]
    assert choices[0].entry.stages == ()
    # Two versions of one name are told apart by their tags.
    assert [choice.id for choice in choose_packed(Settings(), ("matching",), packed(store), nowhere)] == [
        "matching:v1",
        "matching:v2",
    ]


def test_a_setting_chooses_among_what_a_bento_holds(store: ModelStore) -> None:
    settings = read_settings({"SLUICE_MATCHING_MODEL": "matching:v2"})
    assert ids(choose_packed(settings, ("matching",), packed(store), store)) == [("matching:v2", "matching:v2")]
    settings = read_settings({"SLUICE_MATCHING_MODEL": "matching:production"})
    with pytest.raises(ModelNotFound, match="not packed in this bento; it holds matching:v1"):
        choose_packed(settings, ("matching",), packed(store), store)
    with pytest.raises(ModelNotFound, match="This bento holds nothing"):
        choose_packed(Settings(), KINDS, [], store)
