"""Warnings are errors, and nothing in a template can switch the linter off."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from infra.lint import lint
from infra.template import Template

pytestmark = pytest.mark.unit

TOPIC = """
AWSTemplateFormatVersion: "2010-09-09"
Resources:
  Topic:
    Type: AWS::SNS::Topic
"""


def test_the_real_template_is_clean(service: Template) -> None:
    check = lint(service)
    assert check.passed, check.details


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (TOPIC + "Parameters: {Unused: {Type: String}}\n", "W2001"),
        (TOPIC.replace("SNS::Topic", "SNS::Topik"), "E3006"),
        (TOPIC + "    Properties: {Nmae: x}\n", "E3002"),
        (
            TOPIC
            + "    Metadata: {cfn-lint: {config: {ignore_checks: [E3002]}}}\n    Properties: {Nmae: x}\n"
            + "Metadata: {cfn-lint: {config: {ignore_checks: [E3002]}}}\n",
            "E3002",
        ),
    ],
)
def test_a_warning_or_an_error_fails(write: Callable[[str], Template], text: str, rule: str) -> None:
    check = lint(write(text))
    assert not check.passed
    assert any(detail.startswith(rule) for detail in check.details), check.details
