"""An artifact is whole or refused, with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.backends.fake import write_fake_artifact
from runtime.errors import ArtifactRefused
from runtime.load import load_engine
from runtime.manifest import MANIFEST_FILE, read_manifest, verify

pytestmark = pytest.mark.unit


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    write_fake_artifact(tmp_path / "a", "matching")
    return tmp_path / "a"


def change(artifact: Path, **fields: object) -> None:
    path = artifact / MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_whole_artifact_verifies_and_keeps_its_digest(artifact: Path) -> None:
    assert verify(artifact).digest == read_manifest(artifact).digest


def test_bentoml_may_put_its_own_file_beside(artifact: Path) -> None:
    (artifact / "model.yaml").write_text("name: a")
    verify(artifact)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda a: (a / "tokenizer.json").unlink(), "missing: tokenizer.json"),
        (lambda a: (a / "tokenizer.json").write_text("{}"), "altered: tokenizer.json"),
        (lambda a: (a / "extra.bin").write_text("x"), "not listed in the manifest: extra.bin"),
        (lambda a: (a / MANIFEST_FILE).unlink(), "has no manifest.json"),
        (lambda a: (a / MANIFEST_FILE).write_text("{"), "is not JSON"),
        (lambda a: change(a, schema_version=99), "schema_version 99"),
        (lambda a: change(a, colour="red"), "colour"),
        (lambda a: change(a, kind="dreaming"), "kind"),
    ],
)
def test_a_damaged_artifact_is_refused_with_the_reason(artifact: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    damage(artifact)
    with pytest.raises(ArtifactRefused, match=message):
        load_engine(artifact)


def test_one_flipped_byte_is_enough(artifact: Path) -> None:
    path = artifact / "fake.json"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ArtifactRefused, match=r"altered: fake\.json"):
        verify(artifact)


@pytest.mark.parametrize(
    ("labels", "positive", "expected"),
    [
        ((), None, ("no_match", "match")),
        (("different", "same"), 1, ("different", "same")),
        (("same", "different"), 0, ("different", "same")),
        (("score",), None, ("not_score", "score")),
        (("contradiction", "entailment", "neutral"), 1, ("not_entailment", "entailment")),
    ],
)
def test_what_scores_below_and_above_the_threshold_are_called(
    artifact: Path, labels: tuple[str, ...], positive: int | None, expected: tuple[str, str]
) -> None:
    manifest = read_manifest(artifact).model_copy(update={"labels": labels, "positive_label": positive})
    assert manifest.match_labels == expected
