"""The recipe: what it refuses, its defaults, the recipes that ship, and the page that describes it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from records.document import DocumentError, check_document, read_document
from training.compression.settings import Compress
from training.model_section import BiEncoder, CausalLM, EncoderDecoder, NewEncoder, PairModel
from training.recipe import (
    EmbeddingData,
    ExampleColumns,
    ExampleData,
    GroupColumns,
    MatchingData,
    PairData,
    Recipe,
    TextData,
    Track,
    Train,
)
from training.tuning.settings import Tune

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[3]
RECIPES = sorted((ROOT / "training" / "recipes").glob("*.yaml"))
MATCHING: dict[str, Any] = {
    "name": "m",
    "model": {"kind": "matching"},
    "data": {"train": "a", "valid": "b", "test": "c"},
}
PAIR = {"kind": "matching", "architecture": "pair-classifier", "head": "cnn"}
GENERATION: dict[str, Any] = {"name": "g", "model": {"kind": "generation"}, "data": {"train": "a"}}


def test_the_defaults_are_the_full_recipe() -> None:
    recipe = check_document(MATCHING, Recipe, "r")
    assert (recipe.train.learning_rate, recipe.train.steps, recipe.train.warmup) == (5e-5, 10_000, 500)
    assert isinstance(recipe.data, PairData)
    assert (recipe.data.labels, recipe.data.positive, recipe.data.bad_rows) == (("0", "1"), "1", "fail")
    assert isinstance(check_document(GENERATION, Recipe, "r").data, TextData)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": {"trian": "a", "valid": "b", "test": "c"}}, "did you mean 'train'"),
        ({"train": {"lerning_rate": 1}}, "did you mean 'learning_rate'"),
        ({"model": {"kind": "matching", "architecture": "cross-encodr"}}, "did you mean 'cross-encoder'"),
        ({"model": {"kind": "matching", "architecture": "gpt2"}}, "it is one for generation"),
        ({"model": {"kind": "matching", "head": "cnn"}}, "belong together"),
        ({"model": PAIR | {"head": "ccnn"}}, "did you mean 'cnn'"),
        ({"model": PAIR | {"head_hidden": 5}}, "head_hidden 5 must be even"),
        ({"model": PAIR | {"encoder": {"hidden": 5}}}, "hidden 5 must be even"),
        ({"model": PAIR | {"encoder": {"architecture": "bilstn"}}}, "did you mean 'bilstm'"),
        ({"model": PAIR | {"encoder": {"hiden": 5}}}, "did you mean 'hidden'"),
        ({"model": PAIR | {"encoder": {}, "base": "x"}}, "give either base"),
        ({"model": PAIR | {"base": None}}, "give either base"),
        ({"model": PAIR | {"encoder": {}, "frozen": True}}, "a new encoder must be trained"),
        ({"model": {"kind": "matching", "encoder": {}}}, "take architecture pair-classifier"),
        ({"data": {"train": "a"}}, "r: data.valid: Field required"),
        (
            {"model": {"kind": "matchin"}},
            "model.kind is matchin; write one of matching, embedding, generation, seq2seq$",
        ),
        ({"model": {}}, "^r: document: model.kind is missing; write one of matching, embedding, generation, seq2seq$"),
        ({"data": MATCHING["data"] | {"labels": [False, True]}}, "quote the label"),
        ({"data": MATCHING["data"] | {"labels": [0, 0]}}, "each must differ"),
        ({"data": MATCHING["data"] | {"labels": ["no", "yes"]}}, "positive '1' is none of the labels no, yes"),
        ({"data": MATCHING["data"] | {"kind": "generation"}}, "kind"),
        ({"train": {"steps": 100, "warmup_steps": 100}}, "must be below steps"),
        ({"name": "A b"}, "name"),
    ],
)
def test_what_does_not_hold_is_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        check_document(MATCHING | changed, Recipe, "r")


def test_unquoted_numbers_are_labels() -> None:
    data = MATCHING["data"] | {"labels": [0, 1, 2], "positive": 2}
    recipe = check_document(MATCHING | {"data": data}, Recipe, "r")
    assert isinstance(recipe.data, PairData)
    assert (recipe.data.labels, recipe.data.positive) == (("0", "1", "2"), "2")


def test_a_base_brings_its_shape_and_new_embeddings_are_trained() -> None:
    base = {"kind": "generation", "base": "folder"}
    assert check_document(GENERATION | {"model": base}, Recipe, "r").model.base == "folder"
    with pytest.raises(DocumentError, match="hidden, layers: these come with the base"):
        check_document(GENERATION | {"model": base | {"layers": 2, "hidden": 64}}, Recipe, "r")
    with pytest.raises(DocumentError, match=r"freeze_embeddings needs model\.base"):
        check_document(GENERATION | {"train": {"freeze_embeddings": True}}, Recipe, "r")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_that_ships_holds_and_opens_with_its_launch_command(path: Path) -> None:
    recipe = read_document(path, Recipe)
    text = path.read_text(encoding="utf-8")
    assert f"python -m training train training/recipes/{path.name}" in text.split("\nname:")[0]
    assert text.splitlines()[0].startswith("# ")
    if path.stem.startswith("demo") or path.stem == "llama":
        sources = [recipe.data.train, recipe.data.valid, recipe.data.test]
        assert all((ROOT / source).is_file() for source in sources if source)


def test_the_demo_recipes_have_the_names_that_others_rely_on() -> None:
    names = {path.stem: read_document(path, Recipe).name for path in RECIPES}
    assert (names["demo-matching"], names["demo-generation"]) == ("matching", "generation")
    demo = read_document(ROOT / "training/recipes/demo-generation.yaml", Recipe).model
    assert isinstance(demo, CausalLM)
    assert demo.hidden // demo.heads % 16 == 0


@pytest.mark.parametrize("kind", ["generation", "seq2seq"])
def test_a_recipe_with_a_base_is_read_again_as_its_run_recorded_it(kind: str) -> None:
    data = {split: f"{split}.csv" for split in ("train", "valid", "test")}
    recipe = Recipe.model_validate({"name": "further", "model": {"kind": kind, "base": "folder"}, "data": data})
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


REFERENCE: list[tuple[str, type[BaseModel]]] = [
    ("Top level", Recipe),
    ("`model` for matching", PairModel),
    ("`model.encoder`", NewEncoder),
    ("`model` for embedding", BiEncoder),
    ("`model` for generation", CausalLM),
    ("`data` for matching", MatchingData),
    ("`data` for embedding", EmbeddingData),
    ("`data.columns`", GroupColumns),
    ("`data` for generation", TextData),
    ("`model` for seq2seq", EncoderDecoder),
    ("`data` for seq2seq", ExampleData),
    ("`data.columns` for seq2seq", ExampleColumns),
    ("`train`", Train),
    ("`compress`", Compress),
    ("`tune`", Tune),
    ("`track`", Track),
]


def documented(heading: str) -> dict[str, str]:
    """key -> default, of the table below a heading of docs/training.md."""
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    part = page.split(f"\n### {heading}\n")[1].split("\n#")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", part, flags=re.MULTILINE))


def shown(value: Any) -> str:
    """A default as the page writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`[{', '.join(value)}]`" if isinstance(value, tuple) else f"`{value}`"


@pytest.mark.parametrize(("heading", "model"), REFERENCE)
def test_the_reference_page_has_every_key_and_its_default(heading: str, model: type[BaseModel]) -> None:
    # `kind` of the data follows the model's: nothing to write, so nothing to document.
    fields = {key: field for key, field in model.model_fields.items() if (heading[:6], key) != ("`data`", "kind")}
    table = documented(heading)
    assert set(table) == set(fields)
    for key, field in fields.items():
        default = field.get_default(call_default_factory=True)
        needed = field.is_required() or key == "kind"
        if not isinstance(default, BaseModel):
            assert table[key] == ("needed" if needed else shown(default)), key


def test_a_larger_batch_on_a_gpu_sees_the_same_rows() -> None:
    train = Train(learning_rate=1e-4, steps=1000, batch_size=16, validate_every=100, gpu_batch_size=64, threads=3)
    larger = train.on_gpu()
    assert (larger.batch_size, larger.steps, larger.warmup, larger.validate_every) == (64, 250, 12, 25)
    assert larger.learning_rate == pytest.approx(2e-4)
    assert (larger.gpu_batch_size, larger.threads) == (64, 3)
    assert larger.on_gpu() == larger  # put in place once
    assert train.model_copy(update={"gpu_batch_size": None}).on_gpu() == larger  # four times the batch
    same = train.model_copy(update={"gpu_batch_size": 16}).on_gpu()
    assert (same.batch_size, same.steps, same.learning_rate) == (16, 1000, 1e-4)
    assert Train(steps=4, warmup_steps=3, validate_every=2).on_gpu().steps == 1  # and its warm-up ends
