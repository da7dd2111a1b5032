"""Every rule holds on the real template, and every rule notices the damage that it is there for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from infra.rules import run
from infra.scaling_rules import relabelled
from infra.template import Template
from infra.validate import RULES

pytestmark = pytest.mark.unit

Damage = Callable[[Any], None]


def put(*path: Any, value: Any) -> Damage:
    """Set a value somewhere below Resources."""

    def damage(body: Any) -> None:
        target = body["Resources"]
        for part in path[:-1]:
            target = target[part]
        target[path[-1]] = value

    return damage


def drop(*path: Any) -> Damage:
    """Delete a value somewhere below Resources."""

    def damage(body: Any) -> None:
        target = body["Resources"]
        for part in path[:-1]:
            target = target[part]
        del target[path[-1]]

    return damage


def parameter(name: str, key: str, value: Any) -> Damage:
    return lambda body: body["Parameters"][name].update({key: value})


def environment(old: str, new: str) -> Damage:
    """Replace a text in the agent's two configurations."""

    def damage(body: Any) -> None:
        found = False
        for variable in body["Resources"]["TaskDefinition"]["Properties"]["ContainerDefinitions"][1]["Environment"]:
            text = variable["Value"]["Fn::Sub"]
            found |= old in text
            variable["Value"]["Fn::Sub"] = text.replace(old, new)
        assert found, old

    return damage


def also(resource: dict[str, Any]) -> Damage:
    """Declare one resource more."""
    return lambda body: body["Resources"].update({"Intruder": resource})


def properties(resource: str, *path: Any) -> tuple[Any, ...]:
    return (resource, "Properties", *path)


SERVER = properties("TaskDefinition", "ContainerDefinitions", 0)
DEPLOYMENT = properties("Service", "DeploymentConfiguration")
TRACKING = properties("SaturationPolicy", "TargetTrackingScalingPolicyConfiguration")
STATEMENTS = properties("ExecutionRole", "Policies", 0, "PolicyDocument", "Statement")
OPEN_KEYS = {"Name": "SLUICE_API_KEYS", "Value": "secret"}

DAMAGES: list[tuple[str, str, Damage]] = [
    # rule, what its message must name, damage
    ("service-is-behind-the-load-balancer", "no LoadBalancers", drop(*properties("Service", "LoadBalancers"))),
    ("service-is-behind-the-load-balancer", "target groups", put(*properties("Service", "LoadBalancers"), value=[])),
    (
        "service-is-behind-the-load-balancer",
        "port 80",
        put(*properties("Service", "LoadBalancers", 0, "ContainerPort"), value=80),
    ),
    ("service-is-behind-the-load-balancer", "does not depend", drop("Service", "DependsOn")),
    ("service-is-behind-the-load-balancer", "no listener", put("Listener", "Condition", value="HasCertificate")),
    ("service-is-behind-the-load-balancer", "found 0", drop("TargetGroup")),
    ("health-check-asks-readyz", "/livez", put(*properties("TargetGroup", "HealthCheckPath"), value="/livez")),
    ("health-check-asks-readyz", "200-499", put(*properties("TargetGroup", "Matcher", "HttpCode"), value="200-499")),
    (
        "deployment-rolls-back-by-itself",
        "Rollback is False",
        put(*DEPLOYMENT, "DeploymentCircuitBreaker", "Rollback", value=False),
    ),
    ("deployment-rolls-back-by-itself", "DeploymentConfiguration", drop(*DEPLOYMENT)),
    ("deployment-rolls-back-by-itself", "0 %", put(*DEPLOYMENT, "MinimumHealthyPercent", value=0)),
    ("deployment-rolls-back-by-itself", "watches", put(*DEPLOYMENT, "Alarms", "AlarmNames", value=["other"])),
    ("draining-ends-before-the-kill", "StopTimeout is 30 s", put(*SERVER, "StopTimeout", value=30)),
    ("draining-ends-before-the-kill", "Fargate allows", put(*SERVER, "StopTimeout", value=600)),
    ("draining-ends-before-the-kill", "300", parameter("DrainSeconds", "MaxValue", 300)),
    (
        "draining-ends-before-the-kill",
        "drains for 5",
        put(*properties("TargetGroup", "TargetGroupAttributes", 0, "Value"), value="5"),
    ),
    ("draining-ends-before-the-kill", "the server for 7", put(*SERVER, "Environment", 1, "Value", value="7")),
    ("keep-alive-outlives-the-idle-timeout", "5 s", put(*SERVER, "Command", 2, value="5")),
    ("keep-alive-outlives-the-idle-timeout", "does not give", put(*SERVER, "Command", value=["serve"])),
    ("logs-are-kept", "logs nowhere", drop(*SERVER, "LogConfiguration")),
    ("logs-are-kept", "RetentionInDays", drop(*properties("LogGroup", "RetentionInDays"))),
    ("alarms-are-complete", "UnHealthyHostCount", drop("UnhealthyTasksAlarm")),
    ("alarms-are-complete", "Saturation", drop("SaturationMissingAlarm")),
    ("alarms-are-complete", "p50", put(*properties("LatencyAlarm", "ExtendedStatistic"), value="p50")),
    ("alarms-are-complete", "published under", drop(*properties("LatencyAlarm", "Dimensions", 1))),
    ("alarms-are-complete", "AlarmTopicArn", put(*properties("ErrorAlarm", "AlarmActions"), value=[])),
    ("outputs-name-what-was-made", "Url", lambda body: body["Outputs"].pop("Url")),
    ("scaling-owns-the-number-of-tasks", "found 0", drop("ScalableTarget")),
    ("scaling-owns-the-number-of-tasks", "DesiredCount to 2", put(*properties("Service", "DesiredCount"), value=2)),
    ("scaling-owns-the-number-of-tasks", "bounds", parameter("MinCapacity", "Default", 20)),
    (
        "scaling-owns-the-number-of-tasks",
        "other",
        put(*properties("ScalableTarget", "ResourceId"), value={"Fn::Sub": "service/${Cluster}/other"}),
    ),
    ("scaling-tracks-saturation", "CPU", put(*TRACKING, "CustomizedMetricSpecification", "MetricName", value="CPU")),
    (
        "scaling-tracks-saturation",
        "Maximum",
        put(*TRACKING, "CustomizedMetricSpecification", "Statistic", value="Maximum"),
    ),
    ("scaling-tracks-saturation", "holds 70", parameter("TargetSaturation", "Default", 70)),
    ("scaling-tracks-saturation", "oscillate", parameter("ScaleInCooldownSeconds", "Default", 10)),
    (
        "scaling-tracks-saturation",
        "dimensions",
        put(*TRACKING, "CustomizedMetricSpecification", "Dimensions", value=[]),
    ),
    (
        "saturation-is-published",
        "containers named 'agent'",
        drop(*properties("TaskDefinition", "ContainerDefinitions", 1)),
    ),
    (
        "saturation-is-published",
        "sluice_saturation as None",
        environment("regex: sluice_saturation, action", "regex: up, action"),
    ),
    ("saturation-is-published", "as Load", environment("replacement: Saturation", "replacement: Load")),
    (
        "saturation-is-published",
        "namespace Other",
        environment('"metric_namespace": "Sluice"', '"metric_namespace": "Other"'),
    ),
    ("saturation-is-published", "dimensions", environment('[["Service"]]', '[["instance"]]')),
    ("saturation-is-published", "scrapes", environment("127.0.0.1:3000", "127.0.0.1:8080")),
    ("saturation-is-published", "does not parse", environment('"logs": {', '"logs": {,')),
    ("saturation-is-published", "misses Saturation", environment("^Saturation$", "^Load$")),
    (
        "saturation-is-published",
        "may not write",
        drop(*properties("TaskRole", "Policies", 0, "PolicyDocument", "Statement", 0)),
    ),
    ("roles-have-no-wildcards", "every resource", put(*STATEMENTS, 1, "Resource", value="*")),
    ("roles-have-no-wildcards", "s3:*", put(*STATEMENTS, 1, "Action", value="s3:*")),
    (
        "roles-have-no-wildcards",
        "managed",
        put(*properties("TaskRole", "ManagedPolicyArns"), value=["arn:aws:iam::aws:policy/AdministratorAccess"]),
    ),
    ("roles-have-no-wildcards", "checkov cannot read", put(*STATEMENTS, 0, value={"Fn::If": ["HasApiKeys", {}, {}]})),
    (
        "roles-have-no-wildcards",
        "Intruder",
        also(
            {
                "Type": "AWS::IAM::Policy",
                "Properties": {"PolicyDocument": {"Statement": [{"Effect": "Allow", "Action": "*"}]}},
            }
        ),
    ),
    (
        "roles-trust-this-account-only",
        "trusts",
        put(*properties("TaskRole", "AssumeRolePolicyDocument", "Statement", 0, "Principal"), value={"AWS": "*"}),
    ),
    (
        "roles-trust-this-account-only",
        "aws:SourceAccount",
        drop(*properties("TaskRole", "AssumeRolePolicyDocument", "Statement", 0, "Condition")),
    ),
    (
        "tasks-are-reached-by-the-load-balancer-only",
        "admits others",
        put(*properties("TaskSecurityGroup", "SecurityGroupIngress"), value=[{"CidrIp": "0.0.0.0/0"}]),
    ),
    ("tasks-are-reached-by-the-load-balancer-only", "nothing may reach", drop("TaskIngress")),
    ("tasks-are-reached-by-the-load-balancer-only", "opens", put(*properties("TaskIngress", "ToPort"), value=9000)),
    (
        "tasks-are-reached-by-the-load-balancer-only",
        "0.0.0.0/0",
        put(
            *properties("LoadBalancerSecurityGroup", "SecurityGroupIngress", "Fn::If", 2, 0, "CidrIp"),
            value="0.0.0.0/0",
        ),
    ),
    ("https-when-there-is-a-certificate", "Protocol", put(*properties("Listener", "Protocol"), value="HTTP")),
    ("https-when-there-is-a-certificate", "redirects", drop("RedirectListener")),
    (
        "https-when-there-is-a-certificate",
        "2016-08",
        put(*properties("Listener", "SslPolicy"), value="ELBSecurityPolicy-2016-08"),
    ),
    ("https-when-there-is-a-certificate", "CertificateArn", lambda body: body.pop("Rules")),
    ("api-keys-come-from-the-secret", "SLUICE_API_KEYS", put(*SERVER, "Environment", value=[OPEN_KEYS])),
    ("api-keys-come-from-the-secret", "does not come from", put(*SERVER, "Secrets", value=[])),
    ("api-keys-come-from-the-secret", "does not wait", put(*properties("TaskDefinition", "Tags"), value=[])),
    ("api-keys-come-from-the-secret", "read by", drop("ApiKeysDecryptPolicy")),
]


def test_every_rule_holds_on_the_real_template(service: Template) -> None:
    checks = run(RULES, service)
    assert [check for check in checks if not check.passed] == []
    assert all(check.evidence for check in checks)


@pytest.mark.parametrize(("rule", "named", "damage"), DAMAGES, ids=[f"{rule}: {named}" for rule, named, _ in DAMAGES])
def test_damage_is_noticed_by_the_rule_that_is_there_for_it(
    broken: Template, rule: str, named: str, damage: Damage
) -> None:
    damage(broken.body)
    verdicts = {check.name: check for check in run(RULES, broken)}
    check = verdicts[f"template/{rule}"]
    assert not check.passed
    assert named in check.evidence, check.evidence


def test_a_template_too_large_for_a_request_is_noticed(service: Template) -> None:
    long = Template(service.path, service.text + "#" * 30_000, service.body)
    failed = [check.name for check in run(RULES, long) if not check.passed]
    assert failed == ["template/template-fits-into-a-request"]


def test_no_rule_goes_without_a_template_that_breaks_it() -> None:
    names = {rule.__name__.replace("_", "-") for rule in RULES}
    assert names - {rule for rule, _, _ in DAMAGES} == {"template-fits-into-a-request"}


def test_a_template_of_another_shape_fails_instead_of_crashing(service: Template) -> None:
    nothing = Template(service.path, "", {"Resources": {"Service": {"Type": "AWS::ECS::Service", "Properties": []}}})
    checks = run(RULES, nothing)
    assert len(checks) == len(RULES)
    assert [check.name for check in checks if check.passed] == ["template/template-fits-into-a-request"]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([], "up"),
        ([{"source_labels": ["__name__"], "regex": "up", "action": "keep"}], "up"),
        ([{"source_labels": ["__name__"], "regex": "u", "action": "keep"}], None),
        ([{"source_labels": ["__name__"], "regex": "up", "action": "drop"}], None),
        ([{"source_labels": ["__name__"], "regex": "(u)p", "target_label": "__name__", "replacement": "$1x"}], "ux"),
    ],
)
def test_relabelling_is_anchored_and_replaces_groups_like_prometheus(
    rules: list[dict[str, Any]], expected: str | None
) -> None:
    assert relabelled("up", rules) == expected
