"""Rules about who may reach what: IAM, the network, TLS, the Bearer keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from infra.rules import PORT, SERVER, Rule, branches, container, ref, require
from infra.template import Template, walk

# Actions that name no resource, so that "*" is all there is.
WITHOUT_RESOURCE = {"ecr:GetAuthorizationToken"}
MODERN_TLS = ("ELBSecurityPolicy-TLS13-1-2-", "ELBSecurityPolicy-TLS13-1-3-")


def roles_have_no_wildcards(template: Template) -> str:
    """Every statement names its actions and its resources; no managed policy widens a role."""
    managed = template.of_type("AWS::IAM::ManagedPolicy")
    require(not managed, f"{sorted(managed)}: write the rights into the role that has them")
    for role, resource in template.of_type("AWS::IAM::Role").items():
        require("ManagedPolicyArns" not in resource["Properties"], f"{role} has managed policies, wider than its use")
    count = 0
    for where, statement in statements(template):
        count += 1
        actions = as_list(statement.get("Action"))
        require(actions and not any("*" in action for action in actions), f"{where} allows {actions}")
        if "*" in as_list(statement.get("Resource")):
            wide = sorted(set(actions) - WITHOUT_RESOURCE)
            require(not wide, f"{where} allows {wide} on every resource")
    require(count, "the template gives no role any right, so there is nothing to judge")
    return f"{count} statements name their actions and resources"


def statements(template: Template) -> Iterator[tuple[str, Any]]:
    """Yield every statement that a role of the template gets, with the name of the policy that holds it."""
    for role in template.of_type("AWS::IAM::Role"):
        for policy in template.property(role, "Policies"):
            for statement in policy["PolicyDocument"]["Statement"]:
                # An Fn::If here would hide the statement from checkov, which then says nothing about the whole role.
                require(
                    "Effect" in statement, f"{role}/{policy['PolicyName']} has a statement that checkov cannot read"
                )
                yield f"{role}/{policy['PolicyName']}", statement
    for name in template.of_type("AWS::IAM::Policy"):
        for statement in template.property(name, "PolicyDocument", "Statement"):
            require("Effect" in statement, f"{name} has a statement that checkov cannot read")
            yield name, statement


def as_list(value: Any) -> list[Any]:
    """Return an Action or a Resource as a list, whichever way it is written."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def roles_trust_this_account_only(template: Template) -> str:
    """The roles are assumed by ECS tasks of this account, and not by ECS on behalf of another one."""
    roles = template.of_type("AWS::IAM::Role")
    for role in roles:
        for statement in template.property(role, "AssumeRolePolicyDocument", "Statement"):
            principal = statement.get("Principal")
            require(principal == {"Service": "ecs-tasks.amazonaws.com"}, f"{role} trusts {principal}")
            account = statement.get("Condition", {}).get("StringEquals", {}).get("aws:SourceAccount")
            require(ref(account) == "AWS::AccountId", f"{role} does not check aws:SourceAccount")
    task = template.only("AWS::ECS::TaskDefinition")
    used = [ref(template.property(task, name)) for name in ("ExecutionRoleArn", "TaskRoleArn")]
    require(len(set(used)) == 2 and set(used) == set(roles), f"{task} uses {used}, the stack has {sorted(roles)}")
    return f"ecs-tasks.amazonaws.com of AWS::AccountId -> {used[0]} to start, {used[1]} to run"


def tasks_are_reached_by_the_load_balancer_only(template: Template) -> str:
    """Clients reach the load balancer, the load balancer reaches the tasks on one port, nothing else reaches them."""
    balancer = template.only("AWS::ElasticLoadBalancingV2::LoadBalancer")
    service = template.only("AWS::ECS::Service")
    (outer,) = (str(ref(group)) for group in template.property(balancer, "SecurityGroups"))
    groups = template.property(service, "NetworkConfiguration", "AwsvpcConfiguration", "SecurityGroups")
    (inner,) = (str(ref(group)) for group in groups)
    inline = "SecurityGroupIngress" in template.resources[inner]["Properties"]
    require(not inline, f"{inner} admits others than the load balancer")
    openings = template.of_type("AWS::EC2::SecurityGroupIngress")
    require(openings, f"nothing may reach {inner}, the load balancer included")
    for name in openings:
        require(ref(template.property(name, "GroupId")) == inner, f"{name} opens something else than {inner}")
        source = ref(template.property(name, "SourceSecurityGroupId"))
        require(source == outer, f"{name} admits {source}, not {outer}")
        ports = {template.property(name, "FromPort"), template.property(name, "ToPort")}
        require(ports == {PORT}, f"{name} opens {sorted(ports)}, not {PORT}")
    for egress in template.property(outer, "SecurityGroupEgress"):
        require(ref(egress.get("DestinationSecurityGroupId")) == inner, f"{outer} may reach others than {inner}")
    for rules in branches(template.property(outer, "SecurityGroupIngress")):
        for rule in rules:
            require(ref(rule.get("CidrIp")) == "ClientCidr", f"{outer} admits {rule.get('CidrIp')}")
    return f"ClientCidr -> {outer} -> {inner}:{PORT}"


def https_when_there_is_a_certificate(template: Template) -> str:
    """With a certificate HTTPS answers and HTTP redirects; without one HTTP answers, and never on the internet."""
    listeners = template.of_type("AWS::ElasticLoadBalancingV2::Listener")
    (main,) = (name for name, listener in listeners.items() if "Condition" not in listener)
    decided: dict[str, list[Any]] = {"Protocol": ["HTTPS", "HTTP"], "Port": [443, 80]}
    for name, outcomes in decided.items():
        value = template.property(main, name)
        require(value == {"Fn::If": ["HasCertificate", *outcomes]}, f"{main}.{name} is {value}")
    (policy,) = branches(template.property(main, "SslPolicy"))
    require(str(policy).startswith(MODERN_TLS), f"{main} offers {policy}, which is not TLS 1.2 and later only")
    redirects = [
        name
        for name, listener in listeners.items()
        if listener.get("Condition") == "HasCertificate"
        and template.property(name, "DefaultActions", 0, "RedirectConfig", "Protocol") == "HTTPS"
    ]
    require(redirects, "no listener redirects HTTP to HTTPS")
    guarded = []
    for rule in template.body.get("Rules", {}).values():
        if rule.get("RuleCondition") == {"Fn::Equals": [{"Ref": "Scheme"}, "internet-facing"]}:
            guarded += [
                value["Fn::Not"][0]["Fn::Equals"][0]["Ref"]
                for _, value in walk(rule["Assertions"])
                if isinstance(value, dict) and "Fn::Not" in value
            ]
    missing = sorted({"CertificateArn", "ApiKeysSecretArn"} - set(guarded))
    require(not missing, f"an internet-facing load balancer is allowed without {missing}")
    return f"{main} by HasCertificate, {redirects[0]} redirects; internet-facing needs {' and '.join(guarded)}"


def api_keys_come_from_the_secret(template: Template) -> str:
    """The keys are handed over by reference, never stand in the task definition, and the task waits for the right."""
    server = container(template, SERVER)
    (secrets,) = branches(server.get("Secrets", []))
    require(
        {"Name": "SLUICE_API_KEYS", "ValueFrom": {"Ref": "ApiKeysSecretArn"}} in secrets,
        f"SLUICE_API_KEYS does not come from ApiKeysSecretArn: {secrets}",
    )
    plain = [variable["Name"] for variable in server.get("Environment", []) if "KEY" in variable["Name"].upper()]
    require(not plain, f"{plain} stand in the task definition, readable by anyone who may describe it")
    task = template.only("AWS::ECS::TaskDefinition")
    role = ref(template.property(task, "ExecutionRoleArn"))
    readers = {
        name: ref(statement["Resource"])
        for name, statement in statements(template)
        if statement["Action"] in ("secretsmanager:GetSecretValue", "kms:Decrypt")
    }
    wanted = {"ApiKeysPolicy": "ApiKeysSecretArn", "ApiKeysDecryptPolicy": "KmsKeyArn"}
    require(readers == wanted, f"secrets are read by {readers}, not by {wanted}")
    tags = {ref(value) for _, value in walk(template.property(task, "Tags"))}
    for policy in wanted:
        require("Condition" in template.resources[policy], f"{policy} exists without keys")
        holders = [ref(one) for one in template.property(policy, "Roles")]
        require(holders == [role], f"{policy} belongs to {holders}, not to {role}")
        require(policy in tags, f"{task} does not wait for {policy}: its first tasks could not read their keys")
    return f"Secrets Manager -> SLUICE_API_KEYS, read by {role} only when ApiKeysSecretArn is given"


RULES: tuple[Rule, ...] = (
    roles_have_no_wildcards,
    roles_trust_this_account_only,
    tasks_are_reached_by_the_load_balancer_only,
    https_when_there_is_a_certificate,
    api_keys_come_from_the_secret,
)
