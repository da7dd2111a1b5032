"""The table from code to status covers every error there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import serving.call
import serving.gate
from runtime.errors import DeadlineExceeded, Overloaded, SluiceError
from serving.errors import HIDDEN, TABLE, error_answer

pytestmark = pytest.mark.unit


def every(kind: type[SluiceError]) -> set[type[SluiceError]]:
    return {kind}.union(*(every(each) for each in kind.__subclasses__()))


def test_every_error_has_a_status_and_every_status_an_error() -> None:
    assert serving.gate.Internal in every(SluiceError)
    assert {kind.code for kind in every(SluiceError)} == set(TABLE)


def test_the_documentation_lists_them_all() -> None:
    text = (Path(__file__).parents[3] / "docs" / "api.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d{3}) \| (`[a-z_`, ]+`) \|", text, re.M)
    documented = {(code, int(status)) for status, codes in rows for code in re.findall(r"`([a-z_]+)`", codes)}
    assert documented == {(code, status) for code, (status, _) in TABLE.items()}


def test_what_is_the_servers_fault_is_hidden_unless_it_is_for_the_caller() -> None:
    shown = {"not_ready", "deadline_exceeded"}
    assert {code for code, (status, _) in TABLE.items() if status >= 500} - shown == set(HIDDEN)


@pytest.mark.parametrize(("seconds", "header"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (75.5, "76")])
def test_retry_after_is_whole_seconds_rounded_up(seconds: float, header: str) -> None:
    _, headers, _ = error_answer(Overloaded("full", retry_after_s=seconds), "r")
    assert dict(headers)[b"retry-after"].decode() == header


def test_the_body() -> None:
    status, headers, body = error_answer(DeadlineExceeded("late", param="x"), "r")
    assert status == 504
    assert json.loads(body) == {
        "error": {
            "type": "timeout_error",
            "code": "deadline_exceeded",
            "message": "late",
            "param": "x",
            "retryable": True,
            "request_id": "r",
        }
    }
    assert dict(headers)[b"content-type"] == b"application/json"
