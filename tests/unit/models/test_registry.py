"""The registry: what is known, what is suggested, and that looking costs nothing."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from models.registry import ARCHITECTURES, UnknownArchitecture, builder, check

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in ARCHITECTURES.items() for name in names])
def test_every_entry_leads_to_a_function(kind: str, name: str) -> None:
    module, _, function = ARCHITECTURES[kind][name].partition(":")
    assert builder(kind, name) is getattr(importlib.import_module(module), function)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("matching", "cross-encodr", "did you mean 'cross-encoder'"),
        ("generation", "lama", "did you mean 'llama'"),
        ("matching", "llama", "it is one for generation"),
        ("generation", "zzz", "there are gpt2, llama"),
    ],
)
def test_an_unknown_one_is_told_what_there_is(kind: str, name: str, message: str) -> None:
    with pytest.raises(UnknownArchitecture, match=message):
        check(kind, name)


def test_looking_imports_no_torch() -> None:
    code = "import sys; from models.registry import check; check('matching', 'cross-encoder');"
    code += "assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
