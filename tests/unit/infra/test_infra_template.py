"""Reading templates, and what conditions make of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from infra.errors import InfraError, TemplateFault
from infra.template import Template, load

pytestmark = pytest.mark.unit

CONDITIONAL = """
Parameters:
  Size: {Type: String, Default: small}
  Zone: {Type: String, Default: a}
Conditions:
  Large: !Equals [!Ref Size, large]
  Small: !Not [Condition: Large]
  LargeInB: !And [Condition: Large, !Equals [!Ref Zone, b]]
  Either: !Or [Condition: Small, Condition: LargeInB]
Resources:
  Always: {Type: AWS::SNS::Topic}
  OnlyLarge: {Type: AWS::SNS::Topic, Condition: Large}
  OnlyLargeInB: {Type: AWS::SNS::Topic, Condition: LargeInB}
  OnlyEither: {Type: AWS::SNS::Topic, Condition: Either}
"""


@pytest.mark.parametrize(
    ("values", "declared"),
    [
        ({}, {"Always", "OnlyEither"}),
        ({"Size": "large"}, {"Always", "OnlyLarge"}),
        ({"Size": "large", "Zone": "b"}, {"Always", "OnlyLarge", "OnlyLargeInB", "OnlyEither"}),
    ],
)
def test_conditions_decide_what_is_declared(
    write: Callable[[str], Template], values: dict[str, str], declared: set[str]
) -> None:
    assert set(write(CONDITIONAL).declared(values)) == declared


def test_a_condition_that_cannot_be_evaluated_is_refused(write: Callable[[str], Template]) -> None:
    template = write(CONDITIONAL.replace("Condition: Large}", "Condition: Huge}"))
    with pytest.raises(TemplateFault, match="Huge"):
        template.declared({})


def test_a_missing_property_is_named_with_its_path(service: Template) -> None:
    with pytest.raises(TemplateFault, match=r"TargetGroup has no Matcher\.GrpcCode"):
        service.property("TargetGroup", "Matcher", "GrpcCode")


def test_a_certificate_adds_the_redirect_and_nothing_else(service: Template) -> None:
    with_certificate = service.declared({"CertificateArn": "arn:aws:acm:us-east-1:123456789012:certificate/x"})
    assert set(with_certificate) - set(service.declared({})) == {"RedirectListener"}


@pytest.mark.parametrize("text", ["Resources: [}", "just words", ""])
def test_what_is_not_a_template_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InfraError, match=r"wrong\.yaml is not a template"):
        load(path)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match=r"none\.yaml: No such file"):
        load(tmp_path / "none.yaml")
