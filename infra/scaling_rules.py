"""Rules about scaling: what is scaled, on which signal, and that this very signal is published.

The signal is saturation, the gauge `sluice_saturation` on /metrics: work in flight over measured capacity. The agent
in the task scrapes it and writes it as the CloudWatch metric Sluice/Saturation.
"""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from infra.errors import TemplateFault
from infra.rules import PORT, Rule, attributes, container, default, dimensions, ref, require, substituted
from infra.template import Template

AGENT = "agent"
GAUGE = "sluice_saturation"
NAMESPACE, METRIC = "Sluice", "Saturation"


def scaling_owns_the_number_of_tasks(template: Template) -> str:
    """The scalable target is this service, within bounds, and nothing else sets the count."""
    target = template.only("AWS::ApplicationAutoScaling::ScalableTarget")
    service = template.only("AWS::ECS::Service")
    cluster = template.only("AWS::ECS::Cluster")
    resource = substituted(template.property(target, "ResourceId"))
    require(resource == f"service/<{cluster}>/<{service}.Name>", f"{target} scales {resource}")
    require(template.property(target, "ServiceNamespace") == "ecs", f"{target} is not in the namespace ecs")
    dimension = template.property(target, "ScalableDimension")
    require(dimension == "ecs:service:DesiredCount", f"{target} scales {dimension}")
    count = template.resources[service]["Properties"].get("DesiredCount")
    require(count is None, f"{service} sets DesiredCount to {count}: each update of the stack would undo the scaling")
    least, most = (default(template, template.property(target, bound)) for bound in ("MinCapacity", "MaxCapacity"))
    require(1 <= least <= most, f"{target} has the bounds {least} and {most}")
    return f"{resource}, {least} to {most} tasks by default"


def scaling_tracks_saturation(template: Template) -> str:
    """Target tracking on the mean of Sluice/Saturation over the tasks of this stack, slower in than out."""
    policy = template.only("AWS::ApplicationAutoScaling::ScalingPolicy")
    target = template.only("AWS::ApplicationAutoScaling::ScalableTarget")
    require(template.property(policy, "PolicyType") == "TargetTrackingScaling", f"{policy} is not target tracking")
    require(ref(template.property(policy, "ScalingTargetId")) == target, f"{policy} does not act on {target}")
    tracking = "TargetTrackingScalingPolicyConfiguration"
    metric = template.property(policy, tracking, "CustomizedMetricSpecification")
    signal = f"{metric.get('Namespace')}/{metric.get('MetricName')}"
    require(signal == f"{NAMESPACE}/{METRIC}", f"{policy} tracks {signal}, not {NAMESPACE}/{METRIC}")
    statistic = metric.get("Statistic")
    require(statistic == "Average", f"{policy} tracks the {statistic}; only the average falls as tasks are added")
    stack = dimensions(metric.get("Dimensions", []))
    require(stack == {"Service": "AWS::StackName"}, f"{policy} tracks the dimensions {stack}, not this stack's")
    value = template.property(policy, tracking, "TargetValue")
    held = default(template, value)
    require(0 < held < 1, f"{policy} holds {held}; saturation is full at 1")
    slow, fast = (
        default(template, template.property(policy, tracking, side)) for side in ("ScaleInCooldown", "ScaleOutCooldown")
    )
    require(slow > fast, f"{policy} waits {slow} s before removing and {fast} s before adding: it would oscillate")
    return f"average {signal} at {held} ({ref(value)}); out after {fast} s, in after {slow} s"


def saturation_is_published(template: Template) -> str:
    """The agent scrapes the gauge of its own task, renames it, and writes it where it may, as the policy expects."""
    environment = attributes(container(template, AGENT).get("Environment", []))
    scrape = parsed(environment, "PROMETHEUS_CONFIG_CONTENT", yaml.safe_load)
    agent = parsed(environment, "CW_CONFIG_CONTENT", json.loads)
    try:
        (job,) = scrape["scrape_configs"]
        (source,) = job["static_configs"]
        prometheus = agent["logs"]["metrics_collected"]["prometheus"]
        processor = prometheus["emf_processor"]
        (declaration,) = processor["metric_declaration"]
    except (KeyError, TypeError, ValueError) as error:
        raise TemplateFault(f"the agent's configuration lacks what it needs: {error!r}") from error
    require(
        source["targets"] == [f"127.0.0.1:{PORT}"], f"the agent scrapes {source['targets']}, not the server beside it"
    )
    require(job.get("metrics_path") == "/metrics", f"the agent scrapes {job.get('metrics_path')}")
    require(
        prometheus.get("prometheus_config_path") == "env:PROMETHEUS_CONFIG_CONTENT",
        f"the agent reads its targets from {prometheus.get('prometheus_config_path')}",
    )
    published = relabelled(GAUGE, job.get("metric_relabel_configs", []))
    require(published == METRIC, f"the agent publishes {GAUGE} as {published}, not as {METRIC}")
    require(
        any(re.search(selector, METRIC) for selector in declaration["metric_selectors"]),
        f"the agent selects {declaration['metric_selectors']}, which misses {METRIC}",
    )
    namespace = processor.get("metric_namespace")
    require(namespace == NAMESPACE, f"the agent writes into the namespace {namespace}, not {NAMESPACE}")
    labels = source.get("labels", {})
    require(labels.get("Service") == "<AWS::StackName>", f"the agent labels the gauge {labels}")
    require(declaration["dimensions"] == [["Service"]], f"the agent's dimensions are {declaration['dimensions']}")
    matched = re.search(declaration["label_matcher"], labels["Service"])
    require(
        declaration["source_labels"] == ["Service"] and matched,
        f"the agent's label matcher {declaration['label_matcher']} misses its own label {labels['Service']}",
    )
    group = prometheus.get("log_group_name", "").strip("<>")
    require(group in template.of_type("AWS::Logs::LogGroup"), f"the agent writes to the log group {group!r}")
    role = ref(template.property(template.only("AWS::ECS::TaskDefinition"), "TaskRoleArn"))
    allowed = [
        statement
        for policy in template.property(str(role), "Policies")
        for statement in policy["PolicyDocument"]["Statement"]
        if "logs:PutLogEvents" in statement.get("Action", []) and ref(statement.get("Resource")) == group
    ]
    require(allowed, f"{role} may not write to {group}")
    return f"{GAUGE} on :{PORT}/metrics -> {NAMESPACE}/{METRIC} by way of {group}, which {role} may write"


def parsed(environment: dict[str, Any], name: str, parse: Any) -> Any:
    """Return the parsed text of an environment variable; raises TemplateFault if it is missing or malformed."""
    require(name in environment, f"the container {AGENT} has no {name}")
    try:
        return parse(substituted(environment[name]))
    except (ValueError, yaml.YAMLError) as error:
        raise TemplateFault(f"{name} of the container {AGENT} does not parse: {error}") from error


def relabelled(name: str, rules: list[dict[str, Any]]) -> str | None:
    """Return what Prometheus' metric_relabel_configs make of a metric's name, None if they drop it.

    Covers the actions keep, drop and replace over `__name__`, which is all that the template uses.
    """
    for rule in rules:
        require(rule.get("source_labels") == ["__name__"], f"a relabel rule over {rule.get('source_labels')}")
        matched = re.fullmatch(rule.get("regex", "(.*)"), name)
        match rule.get("action", "replace"):
            case "keep" if not matched:
                return None
            case "drop" if matched:
                return None
            case "replace" if matched and rule.get("target_label") == "__name__":
                name = matched.expand(re.sub(r"\$(\d)", r"\\\1", rule.get("replacement", "$1")))
    return name


RULES: tuple[Rule, ...] = (scaling_owns_the_number_of_tasks, scaling_tracks_saturation, saturation_is_published)
