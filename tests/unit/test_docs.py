"""Documents that list settings list all of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from batch.job import Job
from benchmarks.readme import DOCUMENTS, filled

pytestmark = pytest.mark.unit
DOCS = Path(__file__).parents[2] / "docs"


def keys(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Dotted names of a settings model's leaves."""
    found = set()
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= keys(inner, f"{prefix}{name}.")
        else:
            found.add(f"{prefix}{name}")
    return found


def documented(document: str) -> set[str]:
    """Names in the first column of a document's tables."""
    rows = re.findall(r"^\| (`[^|]+) \|", (DOCS / document).read_text(encoding="utf-8"), re.M)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_the_job_table_is_whole() -> None:
    assert documented("batch.md") == keys(Job)


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_figures_are_those_of_the_result_files(document: Path) -> None:
    text = (DOCS.parent / document).read_text(encoding="utf-8")
    assert text == filled(text), "run `python -m benchmarks.readme`"
    assert "|\n<!-- bench:end -->" in text


def test_every_file_that_the_documents_link_to_is_there() -> None:
    for document in [DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md", *DOCS.rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name} links to {target}"
