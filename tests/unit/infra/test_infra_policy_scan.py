"""What is made of checkov's report, and of checkov's environment when it is missing. checkov itself runs elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from infra import checkov_env, policy_scan, validate
from infra.errors import InfraError
from infra.policy_scan import Scan, clean_environment, judge
from infra.template import Template

pytestmark = pytest.mark.unit

Key = tuple[str, str]
PASSED: tuple[Key, ...] = (("CKV_AWS_26", "Topic"),)


def topic(metadata: str = "{}") -> str:
    return f"Resources:\n  Topic:\n    Type: AWS::SNS::Topic\n    Metadata: {metadata}\n"


def scan(
    passed: tuple[Key, ...] = PASSED,
    failed: dict[Key, str] | None = None,
    skipped: tuple[Key, ...] = (),
    unreadable: bool = False,
) -> Scan:
    return Scan("3", passed, failed or {}, skipped, unreadable)


def verdicts(template: Template, result: Scan) -> tuple[bool, bool]:
    findings, skips = judge(template, result)
    return findings.passed, skips.passed


def test_passed_checks_pass(write: Callable[[str], Template]) -> None:
    assert verdicts(write(topic()), scan()) == (True, True)


@pytest.mark.parametrize(
    "result",
    [
        scan(failed={("CKV_AWS_26", "Topic"): "Ensure all data is encrypted"}),
        scan(passed=()),  # nothing was looked at
        scan(unreadable=True),
    ],
)
def test_a_failure_and_a_scan_of_nothing_fail(write: Callable[[str], Template], result: Scan) -> None:
    assert verdicts(write(topic()), result) == (False, True)


def test_a_skip_with_a_reason_passes_and_is_named(write: Callable[[str], Template]) -> None:
    text = topic("{checkov: {skip: [{id: CKV_AWS_26, comment: It carries only public announcements.}]}}")
    findings, skips = judge(write(text), scan(skipped=PASSED))
    assert findings.passed
    assert skips.passed
    assert skips.evidence == "1 skips: CKV_AWS_26 at Topic"


@pytest.mark.parametrize("comment", ["", "comment: ''", "comment: not needed", "comment: null"])
def test_a_skip_without_a_reason_fails(write: Callable[[str], Template], comment: str) -> None:
    text = topic("{checkov: {skip: [{id: CKV_AWS_26, COMMENT}]}}".replace("COMMENT", comment))
    _, skips = judge(write(text), scan(skipped=PASSED))
    assert not skips.passed
    assert "CKV_AWS_26 at Topic has no reason" in skips.details[0]


def test_a_skip_that_skips_nothing_fails(write: Callable[[str], Template]) -> None:
    text = topic("{checkov: {skip: [{id: CKV_AWS_1, comment: It carries only public announcements.}]}}")
    assert verdicts(write(text), scan()) == (True, False)


def test_a_skip_from_elsewhere_fails(write: Callable[[str], Template]) -> None:
    _, skips = judge(write(topic()), scan(skipped=PASSED))
    assert skips.details == ("CKV_AWS_26 at Topic is skipped outside of Metadata",)


def test_variables_that_configure_checkov_are_kept_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKV_SKIP_CHECK", "CKV_AWS_26")
    monkeypatch.setenv("BC_API_KEY", "x")
    environment = clean_environment(home="/nowhere")
    assert not {"CKV_SKIP_CHECK", "BC_API_KEY"} & environment.keys()
    assert environment["HOME"] == "/nowhere"


def test_a_missing_environment_is_reported_with_the_command_that_makes_it(
    service: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_scan, "find", lambda: checkov_env.find(tmp_path / "checkov"))
    (check,) = validate.policies(service)
    assert not check.passed
    assert "python -m infra checkov-env" in check.evidence


def test_an_environment_of_older_constraints_is_to_be_renewed(tmp_path: Path) -> None:
    (tmp_path / "stamp").write_text("of an older list", encoding="utf-8")
    with pytest.raises(InfraError, match=r"renew it with: python -m infra checkov-env"):
        checkov_env.find(tmp_path)


def test_the_environment_is_pinned_completely() -> None:
    lines = checkov_env.CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(line.count("==") == 1 for line in pins)
    assert any(line.startswith("checkov==") for line in pins)
