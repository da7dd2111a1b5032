"""docs/deploy.md says what the template says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from infra.__main__ import parser
from infra.template import Template

pytestmark = pytest.mark.unit
TEXT = (Path(__file__).parents[3] / "docs" / "deploy.md").read_text(encoding="utf-8")


def test_the_table_of_parameters_is_the_template(service: Template) -> None:
    expected = []
    for name, declaration in service.parameters.items():
        value = declaration.get("Default")
        shown = "*required*" if value is None else "*empty*" if value == "" else f"`{value}`"
        expected.append(f"| `{name}` | {shown} | {' '.join(declaration['Description'].split())} |")
    table = TEXT.split("## Parameters")[1].split("\n\nWithout a certificate")[0]
    assert [line for line in table.splitlines() if line.startswith("| `")] == expected


def test_every_command_shown_is_understood() -> None:
    shown = re.findall(r"^python -m infra (\w+.*?)(?: +#.*)?$", TEXT, flags=re.MULTILINE)
    assert {line.split()[0] for line in shown} == {"validate", "plan", "deploy", "rollback"}
    for line in shown:
        parser().parse_args(line.split())


def test_every_link_leads_somewhere() -> None:
    targets = re.findall(r"\]\((?!#|http)([^)]+)\)", TEXT)
    assert targets
    docs = Path(__file__).parents[3] / "docs"
    assert [target for target in targets if not (docs / target).exists()] == []
