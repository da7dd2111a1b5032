"""Parameter values: where they come from, and what is said about wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from infra import parameters
from infra.errors import InfraError
from infra.template import Template

pytestmark = pytest.mark.unit

TEMPLATE = """
Parameters:
  Image: {Type: String}
  Size: {Type: Number, Default: 2}
Resources:
  Topic: {Type: AWS::SNS::Topic}
"""


def test_a_file_is_overridden_by_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text("Image: one\nSubnets: [a, b]\nSize: 3\nProtected: true\n", encoding="utf-8")
    assert parameters.read(path, ["Image=two=2"]) == {
        "Image": "two=2",
        "Subnets": "a,b",
        "Size": "3",
        "Protected": "true",
    }


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("- a\n", "the file|0"),
        ("Image: {a: b}\n", "Image must be"),
        ("Image: [", "is not YAML"),
        (None, "No such file"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str | None, named: str) -> None:
    path = tmp_path / "values.yaml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InfraError, match=rf"values\.yaml.*({named})"):
        parameters.read(path, [])


@pytest.mark.parametrize("pair", ["Image", "=x", ""])
def test_a_pair_must_be_a_pair(pair: str) -> None:
    with pytest.raises(InfraError, match="is not NAME=VALUE"):
        parameters.read(None, [pair])


def test_an_unknown_name_gets_the_nearest_one(write: Callable[[str], Template]) -> None:
    template = write(TEMPLATE)
    with pytest.raises(InfraError, match=r"no parameter Imgae; did you mean Image\?"):
        parameters.check(template, {"Imgae": "x"}, {})
    with pytest.raises(InfraError, match="it declares Image, Size"):
        parameters.check(template, {"Zzz": "x"}, {})


def test_a_value_may_come_from_the_stack(write: Callable[[str], Template]) -> None:
    template = write(TEMPLATE)
    with pytest.raises(InfraError, match="no value for Image; give --parameter"):
        parameters.check(template, {}, {})
    parameters.check(template, {}, {"Image": "deployed"})


def test_what_is_not_given_stays_as_deployed_and_what_is_new_gets_its_default(write: Callable[[str], Template]) -> None:
    template = write(TEMPLATE)
    assert parameters.effective(template, {}, {"Image": "old", "Gone": "x"}) == {"Image": "old", "Size": "2"}
    assert parameters.as_request(template, {}, {"Image": "old", "Gone": "x"}) == [
        {"ParameterKey": "Image", "UsePreviousValue": True},
        {"ParameterKey": "Size", "ParameterValue": "2"},
    ]
