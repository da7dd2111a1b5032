"""Releases on disk, and which of them is the previous one."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import InfraError
from infra.history import Folder, History, previous

pytestmark = pytest.mark.unit


def test_releases_come_back_in_order(tmp_path: Path) -> None:
    past = History(str(tmp_path), "sluice")
    for number in range(1, 12):
        assert past.append("deploy", f"template {number}", {"Image": str(number)}).number == number
    assert [release.template for release in past.releases()] == [f"template {number}" for number in range(1, 12)]
    assert History(str(tmp_path), "another").releases() == []


def test_of_two_writers_of_one_number_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    past = History(str(tmp_path), "sluice")
    past.append("deploy", "first", {})
    monkeypatch.setattr(past.shelf, "names", lambda: [])  # what a writer sees that looked a moment too early
    with pytest.raises(InfraError, match="release 1 of sluice was just written by somebody else"):
        past.append("deploy", "second", {})
    assert (tmp_path / "sluice" / "0001.json").read_text(encoding="utf-8").count("first") == 1
    assert not Folder(tmp_path / "sluice").put("0001.json", "third")


def test_rolling_back_again_goes_further_back(tmp_path: Path) -> None:
    past = History(str(tmp_path), "sluice")
    for name in ("one", "two", "three"):
        past.append("deploy", name, {})
    walked = []
    for _ in range(2):
        target = previous(past.releases())
        walked.append(target.template)
        past.append("rollback", target.template, {}, restores=target.number)
    assert walked == ["two", "one"]
    with pytest.raises(InfraError, match="release 1, which runs now, is the oldest one recorded"):
        previous(past.releases())


def test_a_deployment_after_a_rollback_goes_back_to_what_the_rollback_restored(tmp_path: Path) -> None:
    past = History(str(tmp_path), "sluice")
    past.append("deploy", "one", {})
    past.append("deploy", "two", {})
    past.append("rollback", "one", {}, restores=1)
    past.append("deploy", "four", {})
    assert previous(past.releases()).template == "one"


def test_no_release_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="was --history the same as for deploy"):
        previous(History(str(tmp_path), "sluice").releases())


def test_a_foreign_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "sluice").mkdir()
    (tmp_path / "sluice" / "0001.json").write_text('{"number": 1}', encoding="utf-8")
    with pytest.raises(InfraError, match=r"sluice/0001\.json is not a release"):
        History(str(tmp_path), "sluice").releases()


def test_an_s3_location_needs_a_bucket() -> None:
    with pytest.raises(InfraError, match="names no bucket"):
        History("s3:///prefix", "sluice")
