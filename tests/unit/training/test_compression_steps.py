"""The list of steps as a recipe writes it, before anything runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from training.compression.registry import STEPS, step_class
from training.compression.settings import Compress

pytestmark = pytest.mark.unit
PAGE = Path(__file__).parents[3] / "docs" / "compression.md"


def test_steps_are_read_as_what_they_are_and_written_out_whole() -> None:
    read = Compress.model_validate({"steps": [{"step": "export"}, {"step": "int8", "tolerance": 0.1}]})
    assert [type(step).__name__ for step in read.steps] == ["Export", "Int8"]
    assert read.model_dump(mode="json")["steps"][1]["tolerance"] == 0.1
    assert Compress.model_validate_json(read.model_dump_json()) == read


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{"step": "exprot"}], "unknown step 'exprot'; did you mean 'export'"),
        (["export"], "a step is written as {step: NAME, …}"),
        ([{"step": "export", "tolerance": 0}], "steps.0.tolerance|greater than 0"),
        ([{"step": "export", "speed": 9}], "Extra inputs are not permitted"),
        ([{"step": "int8"}], "step int8 takes onnx, and the checkpoint is torch; put an export between them"),
        ([{"step": "export"}, {"step": "export"}], "export is onnx; put export before the export|takes torch"),
        ([{"step": "export"}, {"step": "int8"}, {"step": "fp16"}], "fp16 takes fp32, and int8 is int8"),
    ],
)
def test_what_cannot_be_is_refused_when_the_recipe_is_read(steps: list[object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Compress.model_validate({"steps": steps})


@pytest.mark.parametrize("name", STEPS)
def test_the_page_has_every_setting_of_every_step(name: str) -> None:
    part = PAGE.read_text(encoding="utf-8").split(f"\n### `{name}`\n")[1].split("\n#")[0]
    table = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", part, flags=re.MULTILINE))
    fields = {key: field for key, field in step_class(name).model_fields.items() if key != "step"}
    shown = {key for key, field in fields.items() if key != "tolerance" or field.default is not None}
    assert set(table) == shown
    for key in shown:
        default = fields[key].get_default(call_default_factory=True)
        if fields[key].is_required():
            assert table[key] == "needed"
        elif isinstance(default, bool):
            assert table[key] == f"`{str(default).lower()}`"
        else:
            assert table[key] == ("none" if default is None else f"`{default}`")
