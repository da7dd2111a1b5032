"""`python -m training models`, as a script and as a person would use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.backends.fake import write_fake_artifact
from training.models_command import main

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    for tag in ("m/1", "m/2"):
        write_fake_artifact(tmp_path / "models" / tag, "matching")
    write_fake_artifact(tmp_path / "models" / "g/1", "generation")
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert main([*arguments, "--json"]) == 0
    result: dict[str, object] = json.loads(capsys.readouterr().out)
    return result


def test_show_tells_scripts_what_they_rely_on(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    main(["promote", "m:1"])
    capsys.readouterr()
    for reference in ("m", "m:production", "m:1"):
        shown = told(capsys, "show", reference)
        assert {key: shown[key] for key in ("tag", "path", "kind", "precision", "stage")} == {
            "tag": "m:1",
            "path": str(home / "models/m/1"),
            "kind": "matching",
            "precision": "fp32",
            "stage": "production",
        }


def test_a_stage_alone_means_the_only_model_that_holds_it(capsys: pytest.CaptureFixture[str]) -> None:
    main(["promote", "m:1"])
    capsys.readouterr()
    assert told(capsys, "show", "production")["tag"] == "m:1"
    main(["promote", "g:1"])
    capsys.readouterr()
    assert main(["show", "production"]) == 1
    assert "exactly one holder; there is g:1, m:1" in capsys.readouterr().err
    assert told(capsys, "show", "production", "--kind", "generation")["tag"] == "g:1"


def test_promote_rollback_and_the_history_that_show_prints(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["promote", "m:1"], ["promote", "m:2", "--why", "smaller"], ["rollback", "m"]):
        assert main(arguments) == 0
    assert "m:1 is production of m again" in capsys.readouterr().out
    main(["show", "m"])
    shown = capsys.readouterr().out
    assert "production <- m:2 (smaller)" in shown
    assert "production <- m:1 (rolled back)" in shown


def test_verify_names_what_was_altered(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert main(["verify", "m:1"]) == 0
    (home / "models/m/1/fake.json").write_text("{}")
    assert main(["verify", "m:1"]) == 1
    assert "altered: fake.json" in capsys.readouterr().err


def test_list_is_a_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list"])
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert [entry["tag"] for entry in told(capsys, "list")] == ["g:1", "m:1", "m:2"]  # type: ignore[index]


@pytest.mark.parametrize("arguments", [["show", "nobody"], ["promote", "m:9"], ["rollback", "m"], ["verify", "../m"]])
def test_what_is_not_there_ends_with_1_and_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main(arguments) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_empty_store_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_HOME", "/nonexistent")
    assert main(["show", "matching"]) == 1
    assert "The store /nonexistent is empty" in capsys.readouterr().err
