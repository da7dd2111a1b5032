"""YAML and overrides in, settings out; every problem of a document is named at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator

from records.document import DocumentError, check_document, read_document

pytestmark = pytest.mark.unit


class Inner(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    learning_rate: float = 0.1
    names: tuple[str, ...] = ()


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    steps: int = Field(ge=1)
    train: Inner = Inner()
    parts: list[Inner] = []


def read(tmp_path: Path, text: str, *overrides: str) -> Settings:
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    return read_document(tmp_path / "x.yaml", Settings, overrides)


def test_values_and_overrides(tmp_path: Path) -> None:
    settings = read(
        tmp_path, "\ufeffsteps: 3\ntrain: {names: [a]}\n", "steps=5", "train.learning_rate=1e-3", "train.names=[b, c]"
    )
    assert settings == Settings(steps=5, train=Inner(learning_rate=0.001, names=("b", "c")))


def test_all_problems_are_told_with_the_nearest_key(tmp_path: Path) -> None:
    with pytest.raises(DocumentError) as caught:
        read(tmp_path, "stepps: 3\ntrain: {learningrate: 1}\nparts: [{nmes: []}]\n")
    problems = str(caught.value).splitlines()
    assert len(problems) == 4
    assert any("unknown key 'stepps'; did you mean 'steps'?" in line for line in problems)
    assert any("unknown key 'train.learningrate'; did you mean 'learning_rate'?" in line for line in problems)
    assert any("unknown key 'parts.0.nmes'; did you mean 'names'?" in line for line in problems)
    assert any("steps: Field required" in line for line in problems)


class Cat(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["cat"]
    lives: int

    @field_validator("lives")
    @classmethod
    def _nine(cls, value: int) -> int:
        if value > 9:
            raise ValueError("cats have nine")
        return value


class Dog(BaseModel):
    kind: Literal["dog"]


class House(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


def test_a_place_is_named_as_the_document_has_it_also_in_a_union() -> None:
    told = []
    for pet in ({"lives": 10}, {}, {"lives": 3, "livs": 4}, {"lives": "many"}):
        with pytest.raises(DocumentError) as caught:
            check_document({"pet": {"kind": "cat", **pet}}, House, "x")
        told.append(str(caught.value))
    assert told[:3] == [
        "x: pet.lives: cats have nine (got 10)",
        "x: pet.lives: Field required",
        "x: unknown key 'pet.livs'; did you mean 'lives'?",
    ]
    assert told[3].startswith("x: pet.lives: Input should be a valid integer")


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("", (), "a mapping of keys is needed, found NoneType"),
        ("- 1", (), "a mapping of keys is needed, found list"),
        ("a: [", (), "cannot be read"),
        ("steps: 0", (), r"steps: Input should be greater than or equal to 1 \(got 0\)"),
        ("steps: 1", ("steps",), "'steps' is not an override; write key=value"),
        ("steps: 1", ("=1",), "is not an override"),
        ("steps: 1", ("steps.a=1",), "'steps' is a value, not a section"),
        ("steps: 1", ("steps=[",), "the value is not YAML"),
        ("steps: 1", ("zzz=1",), "unknown key 'zzz'; known keys: parts, steps, train"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        read(tmp_path, text, *overrides)


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"y\.yaml: no such file"):
        read_document(tmp_path / "y.yaml", Settings)
    with pytest.raises(DocumentError, match="cannot be read"):
        read_document(tmp_path, Settings)
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DocumentError, match="cannot be read"):
        read_document(tmp_path / "x.yaml", Settings)
