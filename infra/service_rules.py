"""Rules about the service's life: attached to the load balancer, healthy, deployed, drained, logged, watched."""

from __future__ import annotations

from typing import Any

from infra.rules import PORT, SERVER, Rule, attributes, branches, container, default, dimensions, ref, require
from infra.template import Template

FARGATE_STOP_LIMIT_S = 120
TEMPLATE_LIMIT_BYTES = 51_200


def service_is_behind_the_load_balancer(template: Template) -> str:
    """Service -> target group <- listener -> load balancer, and the service waits for the listener."""
    service = template.only("AWS::ECS::Service")
    group = template.only("AWS::ElasticLoadBalancingV2::TargetGroup")
    balancer = template.only("AWS::ElasticLoadBalancingV2::LoadBalancer")
    attached = template.property(service, "LoadBalancers")
    require(len(attached) == 1, f"{service} is attached to {len(attached)} target groups, not one")
    require(ref(attached[0].get("TargetGroupArn")) == group, f"{service} is not attached to {group}")
    require(attached[0].get("ContainerName") == SERVER, f"{service} attaches the container {attached[0]}")
    require(attached[0].get("ContainerPort") == PORT, f"{service} attaches port {attached[0].get('ContainerPort')}")
    ports = [mapping["ContainerPort"] for mapping in container(template, SERVER).get("PortMappings", [])]
    require(PORT in ports, f"the container {SERVER} publishes {ports}, not {PORT}")
    forwarding = [
        name
        for name, listener in template.of_type("AWS::ElasticLoadBalancingV2::Listener").items()
        if ref(template.property(name, "LoadBalancerArn")) == balancer
        and "Condition" not in listener
        and any(ref(action.get("TargetGroupArn")) == group for action in template.property(name, "DefaultActions"))
    ]
    require(forwarding, f"no listener that always exists forwards to {group}")
    waits = template.resources[service].get("DependsOn", [])
    waits = [waits] if isinstance(waits, str) else waits
    require(set(waits) & set(forwarding), f"{service} does not depend on {forwarding[0]}: ECS would refuse {group}")
    return f"{balancer} -> {forwarding[0]} -> {group} -> {service}:{PORT}"


def health_check_asks_readyz(template: Template) -> str:
    """A task gets traffic only once its warm-up is over."""
    group = template.only("AWS::ElasticLoadBalancingV2::TargetGroup")
    path = template.property(group, "HealthCheckPath")
    codes = template.property(group, "Matcher", "HttpCode")
    require(path == "/readyz", f"{group} asks {path}, not /readyz")
    require(str(codes) == "200", f"{group} accepts {codes}, not only 200")
    require(
        template.property(group, "TargetType") == "ip", f"{group} must register addresses: Fargate has no instances"
    )
    interval = int(template.property(group, "HealthCheckIntervalSeconds"))
    timeout = int(template.property(group, "HealthCheckTimeoutSeconds"))
    require(timeout < interval, f"{group}: the timeout of {timeout} s is not below the interval of {interval} s")
    grace = default(template, template.property(template.only("AWS::ECS::Service"), "HealthCheckGracePeriodSeconds"))
    return f"/readyz must answer 200 every {interval} s; a starting task has {grace} s"


def deployment_rolls_back_by_itself(template: Template) -> str:
    """The circuit breaker and the error alarm undo a bad version, and no capacity is lost while one rolls out."""
    service = template.only("AWS::ECS::Service")
    deployment = ("DeploymentConfiguration",)
    for switch in ("Enable", "Rollback"):
        for guard in ("DeploymentCircuitBreaker", "Alarms"):
            value = template.property(service, *deployment, guard, switch)
            require(value is True, f"{service}: {guard}.{switch} is {value}")
    minimum = template.property(service, *deployment, "MinimumHealthyPercent")
    require(minimum == 100, f"{service} may fall to {minimum} % of its tasks while deploying")
    maximum = template.property(service, *deployment, "MaximumPercent")
    require(maximum > 100, f"{service} may not start new tasks before old ones stop")
    watched = [ref(name) for name in template.property(service, *deployment, "Alarms", "AlarmNames")]
    alarms = template.of_type("AWS::CloudWatch::Alarm")
    require(
        watched and all(name in alarms for name in watched), f"{service} watches {watched}, not alarms of this stack"
    )
    return f"circuit breaker and {', '.join(map(str, watched))} roll back; {minimum}-{maximum} % of the tasks run"


def draining_ends_before_the_kill(template: Template) -> str:
    """Load balancer, server and Fargate agree on how long a request in flight may still run."""
    group = template.only("AWS::ElasticLoadBalancingV2::TargetGroup")
    delay = attributes(template.property(group, "TargetGroupAttributes")).get("deregistration_delay.timeout_seconds")
    server = container(template, SERVER)
    drain = attributes(server.get("Environment", [])).get("SLUICE_DRAIN_TIMEOUT_S")
    require(ref(delay) and delay == drain, f"the load balancer drains for {delay}, the server for {drain}")
    declaration = template.parameters.get(str(ref(delay)), {})
    longest = declaration.get("MaxValue")
    stop = server.get("StopTimeout")
    require(isinstance(stop, int) and stop <= FARGATE_STOP_LIMIT_S, f"StopTimeout is {stop}; Fargate allows 120 s")
    require(longest is not None and longest < stop, f"{ref(delay)} may be {longest} s, StopTimeout is {stop} s")
    return f"{ref(delay)} (default {declaration.get('Default')} s, at most {longest} s) < StopTimeout {stop} s"


def keep_alive_outlives_the_idle_timeout(template: Template) -> str:
    """Otherwise the server closes connections that the load balancer is about to use, and clients see 502."""
    balancer = template.only("AWS::ElasticLoadBalancingV2::LoadBalancer")
    idle = int(
        attributes(template.property(balancer, "LoadBalancerAttributes")).get("idle_timeout.timeout_seconds", 60)
    )
    keep_alive = int(option(container(template, SERVER), "--timeout-keep-alive"))
    require(keep_alive > idle, f"the server keeps connections {keep_alive} s, the load balancer {idle} s")
    return f"server {keep_alive} s > load balancer {idle} s"


def option(server: Any, name: str) -> Any:
    """Return the value that follows an option in a container's command; raises TemplateFault if it is not given."""
    command = server.get("Command", [])
    require(name in command[:-1], f"the command of {SERVER} does not give {name}")
    return command[command.index(name) + 1]


def logs_are_kept(template: Template) -> str:
    """Every container writes to a log group of the stack, and every log group has an end."""
    groups = template.of_type("AWS::Logs::LogGroup")
    task = template.only("AWS::ECS::TaskDefinition")
    names = []
    for definition in template.property(task, "ContainerDefinitions"):
        options = definition.get("LogConfiguration", {}).get("Options", {})
        require(ref(options.get("awslogs-group")) in groups, f"the container {definition['Name']} logs nowhere")
        names.append(definition["Name"])
    for group in groups:
        template.property(group, "RetentionInDays")
    return f"{' and '.join(names)} -> awslogs; retention set on {', '.join(groups)}"


ALARMED = {
    "HTTPCode_Target_5XX_Count": {"LoadBalancer", "TargetGroup"},
    "UnHealthyHostCount": {"LoadBalancer", "TargetGroup"},
    "TargetResponseTime": {"LoadBalancer", "TargetGroup"},
    "Saturation": {"Service"},
}


def alarms_are_complete(template: Template) -> str:
    """An alarm on each, with the dimensions under which AWS publishes it, and each tells the topic."""
    watched: dict[str, str] = {}
    for alarm in template.of_type("AWS::CloudWatch::Alarm"):
        for actions in ("AlarmActions", "OKActions"):
            told = branches(template.property(alarm, actions))
            require(told == [[{"Ref": "AlarmTopicArn"}]], f"{alarm}.{actions} does not tell AlarmTopicArn")
        template.property(alarm, "TreatMissingData")
        for metric in metrics_of(template.resources[alarm]["Properties"]):
            name = metric["MetricName"]
            wanted = ALARMED.get(name, {"LoadBalancer"})
            given = set(dimensions(metric.get("Dimensions", [])))
            require(given == wanted, f"{alarm}: {name} is published under {sorted(wanted)}, not {sorted(given)}")
            watched[name] = alarm
    missing = sorted(ALARMED.keys() - watched.keys())
    require(not missing, f"no alarm watches {missing}")
    latency = watched["TargetResponseTime"]
    statistic = template.property(latency, "ExtendedStatistic")
    require(statistic == "p99", f"{latency} looks at {statistic}, not p99")
    return ", ".join(f"{alarm} ({name})" for name, alarm in watched.items() if name in ALARMED)


def metrics_of(properties: Any) -> list[Any]:
    """Return the metrics of an alarm, whether it watches one or an expression over several."""
    if "Metrics" not in properties:
        return [properties]
    return [item["MetricStat"]["Metric"] for item in properties["Metrics"] if "MetricStat" in item]


def outputs_name_what_was_made(template: Template) -> str:
    """Scripts read the URL, the cluster and the service."""
    outputs = template.body.get("Outputs", {})
    missing = sorted({"Url", "ClusterName", "ServiceName"} - outputs.keys())
    require(not missing, f"no output named {missing}")
    return ", ".join(outputs)


def template_fits_into_a_request(template: Template) -> str:
    """CloudFormation takes 51,200 bytes in a request; a larger template needs a bucket."""
    size = len(template.text.encode())
    require(size <= TEMPLATE_LIMIT_BYTES, f"{size} bytes; the limit is {TEMPLATE_LIMIT_BYTES}")
    return f"{size} of {TEMPLATE_LIMIT_BYTES} bytes"


RULES: tuple[Rule, ...] = (
    service_is_behind_the_load_balancer,
    health_check_asks_readyz,
    deployment_rolls_back_by_itself,
    draining_ends_before_the_kill,
    keep_alive_outlives_the_idle_timeout,
    logs_are_kept,
    alarms_are_complete,
    outputs_name_what_was_made,
    template_fits_into_a_request,
)
