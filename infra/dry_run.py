"""The template executed by moto, a CloudFormation in this process, and what was declared held against what was made.

moto says CREATE_COMPLETE while it skips the types that it does not know. So every declared resource must either exist
afterwards or be of a type on the list below, and a type on the list must really be missing. What moto skips, and what
it drops inside the types that it knows, is proved by the rules over the parsed template.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config
from moto import mock_aws

from infra.checks import Check
from infra.template import Template

REGION = "us-east-1"
STACK = "sluice-dry-run"
# Types that moto does not create, each with the reason why that is acceptable.
SKIPPED_BY_MOTO = {
    "AWS::ApplicationAutoScaling::ScalableTarget": "no CloudFormation support in moto; see template/scaling-owns-…",
    "AWS::ApplicationAutoScaling::ScalingPolicy": "no CloudFormation support in moto; see template/scaling-tracks-…",
    "AWS::CloudWatch::Alarm": "no CloudFormation support in moto; see template/alarms-are-complete",
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """Parameter values that make one shape of the stack."""

    name: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a scenario declared and what existed after it: logical id -> type; `error` if it could not be created."""

    scenario: str
    declared: Mapping[str, str]
    created: Mapping[str, str]
    outputs: frozenset[str]
    error: str | None = None


def dry_run(template: Template, skipped: Mapping[str, str] = SKIPPED_BY_MOTO) -> list[Check]:
    """Create the stack in its smallest and in its fullest shape; one check for each and one for the list itself."""
    with in_process_aws():
        outcomes = [create(template, scenario) for scenario in scenarios()]
    return [*(compare(outcome, template, skipped) for outcome in outcomes), judge_list(outcomes, skipped)]


def compare(outcome: Outcome, template: Template, skipped: Mapping[str, str]) -> Check:
    """Hold what was declared against what was created."""
    name = f"moto/{outcome.scenario}"
    if outcome.error is not None:
        return Check(name, False, "the stack could not be created", (outcome.error,))
    missing = {logical_id: kind for logical_id, kind in outcome.declared.items() if logical_id not in outcome.created}
    faults = [
        f"{logical_id} ({kind}) is declared, but was not created, and moto is not known to skip its type"
        for logical_id, kind in missing.items()
        if kind not in skipped
    ]
    undeclared = sorted(outcome.created.keys() - outcome.declared.keys())
    faults += [f"{logical_id} was created, but is not declared for these parameters" for logical_id in undeclared]
    silent = sorted(template.body.get("Outputs", {}).keys() - outcome.outputs)
    faults += [f"the output {output} has no value" for output in silent]
    evidence = f"declared {len(outcome.declared)} = created {len(outcome.created)} + skipped {len(missing)} as listed"
    if faults:
        evidence = f"declared {len(outcome.declared)}, created {len(outcome.created)}, missing {len(missing)}"
    return Check(name, not faults, evidence, tuple(faults))


def judge_list(outcomes: list[Outcome], skipped: Mapping[str, str]) -> Check:
    """Fail on an entry of the list that is no longer true, is not needed, or gives no reason."""
    created = {kind for outcome in outcomes for kind in outcome.created.values()}
    declared = {kind for outcome in outcomes for kind in outcome.declared.values()}
    faults = [
        f"{kind} is on the list of skipped types, but moto created it; remove it" for kind in created & skipped.keys()
    ]
    faults += [f"{kind} is on the list of skipped types, but is not declared" for kind in skipped.keys() - declared]
    faults += [
        f"{kind} is on the list of skipped types without a reason" for kind in skipped if not skipped[kind].strip()
    ]
    return Check("moto/skipped-types", not faults, f"{len(skipped)} types on the list", tuple(sorted(faults)))


@contextlib.contextmanager
def in_process_aws() -> Iterator[None]:
    """Answer every AWS call of this process from moto's memory; its remarks about skipped types stay quiet."""
    log = logging.getLogger("moto")
    level = log.level
    log.setLevel(logging.ERROR)
    # A profile of the user's would be looked up before moto answers, and may not exist on this machine.
    profiles = {name: os.environ.pop(name) for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE") if name in os.environ}
    try:
        with warnings.catch_warnings(), mock_aws():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.environ.update(profiles)
        log.setLevel(level)


def client(service: str) -> Any:
    """Return a client that cannot leave moto: a configured endpoint (AWS_ENDPOINT_URL) is ignored."""
    return boto3.Session().client(service, region_name=REGION, config=Config(ignore_configured_endpoint_urls=True))


def scenarios() -> list[Scenario]:
    """Return the smallest and the fullest shape; must be called inside `in_process_aws`, where a VPC exists."""
    ec2 = client("ec2")
    subnets = ec2.describe_subnets()["Subnets"]
    vpc = subnets[0]["VpcId"]
    pair = ",".join(subnet["SubnetId"] for subnet in subnets[:2])
    account = "123456789012"
    plain = {
        "Image": f"{account}.dkr.ecr.{REGION}.amazonaws.com/sluice:1.0",
        "VpcId": vpc,
        "LoadBalancerSubnetIds": pair,
        "ServiceSubnetIds": pair,
    }
    certificate = client("acm").request_certificate(DomainName="sluice.example")["CertificateArn"]
    full = plain | {
        "Scheme": "internet-facing",
        "CertificateArn": certificate,
        "ApiKeysSecretArn": f"arn:aws:secretsmanager:{REGION}:{account}:secret:sluice-keys-AbCdEf",
        "KmsKeyArn": f"arn:aws:kms:{REGION}:{account}:key/00000000-0000-0000-0000-000000000000",
        "AlarmTopicArn": f"arn:aws:sns:{REGION}:{account}:alarms",
    }
    return [Scenario("plain-http-inside-the-vpc", plain), Scenario("https-keys-kms-on-the-internet", full)]


def create(template: Template, scenario: Scenario) -> Outcome:
    """Create the stack of one scenario, look at what exists, and delete it."""
    parameters = {name: value for name, value in scenario.parameters.items() if name in template.parameters}
    declared = template.declared(parameters)
    cloudformation = client("cloudformation")
    try:
        cloudformation.create_stack(
            StackName=STACK,
            TemplateBody=template.text,
            Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
        (stack,) = cloudformation.describe_stacks(StackName=STACK)["Stacks"]
        summaries = cloudformation.list_stack_resources(StackName=STACK)["StackResourceSummaries"]
        cloudformation.delete_stack(StackName=STACK)
    except Exception as error:
        # moto runs in this process, so what a template breaks in it arrives as any exception at all.
        return Outcome(scenario.name, declared, {}, frozenset(), f"{type(error).__name__}: {error}")
    # A resource that moto skipped is listed without a name.
    created = {row["LogicalResourceId"]: row["ResourceType"] for row in summaries if row["LogicalResourceId"]}
    outputs = frozenset(output["OutputKey"] for output in stack.get("Outputs", []) if output.get("OutputValue"))
    return Outcome(scenario.name, declared, created, outputs)
