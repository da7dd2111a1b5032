"""What a bento installs: serving's requirements and all that they need, at the versions of constraints.txt."""

from __future__ import annotations

import re
from importlib.metadata import distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[3]


def lines(path: str) -> list[str]:
    text = (ROOT / path).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def closure(roots: list[str]) -> set[str]:
    """Names of the distributions that `roots` install here, themselves included."""
    found: set[str] = set()
    open_ = [(Requirement(root), "") for root in roots]
    while open_:
        requirement, extra = open_.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for asked in requirement.extras or {""}:
            if (key := f"{name}[{asked}]") not in found:
                found.add(key)
                open_ += [(Requirement(need), asked) for need in distribution(name).requires or ()]
    return {re.sub(r"\[.*", "", key) for key in found}


def test_the_file_is_the_closure_at_the_pinned_versions() -> None:
    pins = {canonicalize_name(line.partition("==")[0]): line for line in lines("constraints.txt")}
    expected = sorted((pins[name] for name in closure(lines("requirements/serving.txt"))), key=str.lower)
    assert lines("requirements/bento.txt") == expected, "\n".join(["requirements/bento.txt should be", *expected])


def test_no_training_library_gets_into_the_image() -> None:
    names = {canonicalize_name(line.partition("==")[0]) for line in lines("requirements/bento.txt")}
    assert not names & {"torch", "transformers", "onnx", "onnxscript", "accelerate", "pyarrow", "boto3"}


def test_the_bento_holds_code_and_nothing_else() -> None:
    bentofile = yaml.safe_load((ROOT / "bentofile.yaml").read_text(encoding="utf-8"))
    assert bentofile["include"] == ["/service.py", "/bentofile.yaml", "/serving/**", "/runtime/**"]
    assert bentofile["python"]["requirements_txt"] == "requirements/bento.txt"
