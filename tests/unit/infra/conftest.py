"""The real template, read once, and small ones where only the machinery is under test."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.template import SERVICE_TEMPLATE, Template, load


@pytest.fixture(scope="session")
def service() -> Template:
    return load(SERVICE_TEMPLATE)


@pytest.fixture
def broken(service: Template) -> Template:
    """A copy of the real template whose body a test may damage."""
    return Template(service.path, service.text, copy.deepcopy(dict(service.body)))


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Template]:
    def write_and_load(text: str) -> Template:
        path = tmp_path / "template.yaml"
        path.write_text(text, encoding="utf-8")
        return load(path)

    return write_and_load
