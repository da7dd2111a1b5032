"""What moto makes is held against what was declared. In-process, so no socket is opened."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from infra.checks import Check
from infra.dry_run import SKIPPED_BY_MOTO, dry_run
from infra.template import Template

pytestmark = pytest.mark.unit

SMALL = """
Resources:
  Topic: {Type: AWS::SNS::Topic}
  Alarm: {Type: AWS::CloudWatch::Alarm, Properties: {ComparisonOperator: LessThanThreshold, EvaluationPeriods: 1}}
Outputs:
  TopicArn: {Value: !Ref Topic}
"""
ALARMS = {"AWS::CloudWatch::Alarm": "moto does not know it"}


def failed(checks: list[Check]) -> dict[str, str]:
    return {check.name: " ".join(check.details) for check in checks if not check.passed}


def test_the_real_template_is_created_as_declared(service: Template) -> None:
    checks = dry_run(service)
    assert failed(checks) == {}
    assert [check.evidence for check in checks[:2]] == [
        "declared 19 = created 13 + skipped 6 as listed",
        "declared 22 = created 16 + skipped 6 as listed",
    ]


def test_what_is_listed_may_be_missing(write: Callable[[str], Template]) -> None:
    assert failed(dry_run(write(SMALL), ALARMS)) == {}


def test_a_type_that_is_neither_created_nor_listed_fails(write: Callable[[str], Template]) -> None:
    problems = failed(dry_run(write(SMALL), {}))
    assert set(problems) == {"moto/plain-http-inside-the-vpc", "moto/https-keys-kms-on-the-internet"}
    assert "Alarm (AWS::CloudWatch::Alarm) is declared, but was not created" in " ".join(problems.values())


def test_a_type_that_does_not_exist_fails(write: Callable[[str], Template]) -> None:
    problems = failed(dry_run(write(SMALL.replace("SNS::Topic", "SNS::Topik")), ALARMS))
    assert "Topic (AWS::SNS::Topik) is declared, but was not created" in " ".join(problems.values())


def test_a_listed_type_that_moto_creates_fails(write: Callable[[str], Template]) -> None:
    problems = failed(dry_run(write(SMALL), ALARMS | {"AWS::SNS::Topic": "an entry of long ago"}))
    assert problems == {
        "moto/skipped-types": "AWS::SNS::Topic is on the list of skipped types, but moto created it; remove it"
    }


def test_a_listed_type_that_nobody_declares_fails(write: Callable[[str], Template]) -> None:
    problems = failed(dry_run(write(SMALL), ALARMS | {"AWS::S3::BucketPolicy": "gone from the template"}))
    assert (
        "AWS::S3::BucketPolicy is on the list of skipped types, but is not declared" in problems["moto/skipped-types"]
    )


def test_a_listed_type_without_a_reason_fails(write: Callable[[str], Template]) -> None:
    assert "without a reason" in failed(dry_run(write(SMALL), {"AWS::CloudWatch::Alarm": " "}))["moto/skipped-types"]


def test_a_template_that_cannot_be_executed_fails(write: Callable[[str], Template]) -> None:
    problems = failed(dry_run(write(SMALL.replace("!Ref Topic", "!Ref Nothing")), ALARMS))
    assert "Nothing" in problems["moto/plain-http-inside-the-vpc"]


def test_every_reason_on_the_real_list_names_the_rules_that_stand_in() -> None:
    assert all("template/" in reason for reason in SKIPPED_BY_MOTO.values())


def test_a_profile_or_an_endpoint_of_the_user_is_left_alone(
    write: Callable[[str], Template], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "not-on-this-machine")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert failed(dry_run(write(SMALL), ALARMS)) == {}
    assert os.environ["AWS_PROFILE"] == "not-on-this-machine"
