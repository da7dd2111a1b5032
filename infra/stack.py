"""A CloudFormation stack: what it is now, what would change, and changing it while telling how it goes.

Talks to whatever endpoint boto3 sees (AWS_ENDPOINT_URL, the profile, the region). It keeps no history; `release` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import boto3
from botocore.exceptions import ClientError

from infra import parameters
from infra.errors import StackError
from infra.template import Template

POLL_S = 5.0
CAPABILITIES = ["CAPABILITY_IAM"]  # the roles have no names of their own
UPDATABLE = {"CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"}
WAY_OUT = {
    "REVIEW_IN_PROGRESS": "a plan left it empty; delete it: aws cloudformation delete-stack --stack-name {name}",
    "ROLLBACK_COMPLETE": "its creation failed; delete it: aws cloudformation delete-stack --stack-name {name}",
    "UPDATE_ROLLBACK_FAILED": "finish it: aws cloudformation continue-update-rollback --stack-name {name}",
    "UPDATE_IN_PROGRESS": "wait, or stop it: aws cloudformation cancel-update-stack --stack-name {name}",
}


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack as it is: its status, parameter values and outputs."""

    name: str
    status: str
    parameters: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Change:
    """One resource that a deployment would add, modify or remove; `replaced` is True, False or Conditional."""

    action: str
    logical_id: str
    resource_type: str
    replaced: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a deployment would do: changes of resources, and of parameters as name -> (now, after)."""

    stack: str
    exists: bool
    changes: tuple[Change, ...]
    parameters: Mapping[str, tuple[str | None, str]]


def client() -> Any:
    """Return a CloudFormation client for the endpoint, region and credentials that boto3 finds."""
    return boto3.client("cloudformation")


def describe(cloudformation: Any, name: str) -> Stack | None:
    """Return the stack, or None if there is none of that name."""
    try:
        (found,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
    except ClientError as error:
        if "does not exist" in str(error):
            return None
        raise
    return Stack(
        name=name,
        status=found["StackStatus"],
        parameters={row["ParameterKey"]: row.get("ParameterValue", "") for row in found.get("Parameters", [])},
        outputs={row["OutputKey"]: row["OutputValue"] for row in found.get("Outputs", [])},
    )


def current(cloudformation: Any, name: str) -> Stack | None:
    """Return the stack if it can be changed, None if there is none; raises StackError with the way out otherwise."""
    stack = describe(cloudformation, name)
    if stack is not None and stack.status not in UPDATABLE:
        way_out = WAY_OUT.get(stack.status, "wait until it is complete, or look at its events").format(name=name)
        raise StackError(f"stack {name} is {stack.status} and cannot be changed; {way_out}")
    return stack


def plan(cloudformation: Any, name: str, template: Template, given: Mapping[str, str]) -> Plan:
    """Ask CloudFormation what a deployment would change, by a change set that is deleted again.

    Raises InfraError on wrong parameters, StackError if the stack cannot be changed or the change set fails.
    """
    stack = current(cloudformation, name)
    deployed = stack.parameters if stack else {}
    parameters.check(template, given, deployed)
    change_set = f"sluice-plan-{datetime.now(UTC):%Y%m%d%H%M%S%f}"
    try:
        made = cloudformation.create_change_set(
            StackName=name,
            ChangeSetName=change_set,
            ChangeSetType="UPDATE" if stack else "CREATE",
            TemplateBody=template.text,
            Parameters=parameters.as_request(template, given, deployed),
            Capabilities=CAPABILITIES,
        )
        try:
            changes = tuple(changes_of(cloudformation, made["StackId"], made["Id"]))
        finally:
            cloudformation.delete_change_set(StackName=made["StackId"], ChangeSetName=made["Id"])
            if stack is None:
                # A change set for a new stack makes an empty one to hang on to.
                cloudformation.delete_stack(StackName=made["StackId"])
    except ClientError as error:
        if not nothing_to_do(str(error)):
            raise
        changes = ()
    after = parameters.effective(template, given, deployed)
    changed = {key: (deployed.get(key), value) for key, value in after.items() if deployed.get(key) != value}
    return Plan(name, stack is not None, changes, changed)


def changes_of(cloudformation: Any, stack_id: str, change_set_id: str) -> Iterator[Change]:
    """Yield the changes of a change set once it is complete, none if it is empty; raises StackError if it failed."""
    token: dict[str, str] = {}
    while True:
        page = cloudformation.describe_change_set(StackName=stack_id, ChangeSetName=change_set_id, **token)
        if page["Status"] in ("CREATE_PENDING", "CREATE_IN_PROGRESS"):
            time.sleep(POLL_S)
            continue
        if page["Status"] == "FAILED":
            reason = page.get("StatusReason", "")
            if nothing_to_do(reason):
                return
            raise StackError(f"CloudFormation cannot plan this: {reason}")
        for row in page.get("Changes", []):
            change = row["ResourceChange"]
            yield Change(
                change["Action"],
                change["LogicalResourceId"],
                change["ResourceType"],
                change.get("Replacement", "False"),
            )
        if "NextToken" not in page:
            return
        token = {"NextToken": page["NextToken"]}


def nothing_to_do(message: str) -> bool:
    """Return whether this is one of the ways in which CloudFormation says that nothing would change."""
    return "didn't contain changes" in message or "No updates are to be performed" in message


def change(
    cloudformation: Any,
    name: str,
    before: Stack | None,
    template: Template,
    given: Mapping[str, str],
    say: Callable[[str], None],
) -> Stack:
    """Create the stack, or update what is there (`before`), and wait for the end; returns the stack as it is then.

    Returns `before` itself if nothing was to be changed. Raises InfraError on wrong parameters, StackError if the stack
    ends otherwise than asked for (CloudFormation has then put back what was there before).
    """
    deployed = before.parameters if before else {}
    parameters.check(template, given, deployed)
    seen = {event["EventId"] for event in events(cloudformation, name)} if before else set()
    act = cloudformation.update_stack if before else cloudformation.create_stack
    try:
        act(
            StackName=name,
            TemplateBody=template.text,
            Parameters=parameters.as_request(template, given, deployed),
            Capabilities=CAPABILITIES,
        )
    except ClientError as error:
        if before and nothing_to_do(str(error)):
            return before
        raise
    say(f"{'updating' if before else 'creating'} {name}")
    return wait(cloudformation, name, "UPDATE_COMPLETE" if before else "CREATE_COMPLETE", seen, say)


def wait(cloudformation: Any, name: str, wanted: str, seen: set[str], say: Callable[[str], None]) -> Stack:
    """Tell each new event until the stack rests; raises StackError with the reasons if it is not as wanted then."""
    reasons: list[str] = []
    while True:
        stack = describe(cloudformation, name)
        new = [event for event in events(cloudformation, name) if event["EventId"] not in seen]
        for event in reversed(new):
            seen.add(event["EventId"])
            reason = event.get("ResourceStatusReason", "")
            line = f"{event['ResourceStatus']:<28} {event['ResourceType']} {event['LogicalResourceId']}"
            say(f"{event['Timestamp']:%H:%M:%S}  {line}" + (f"  {reason}" if reason else ""))
            if event["ResourceStatus"].endswith("_FAILED"):
                reasons.append(f"{event['LogicalResourceId']}: {reason}")
        if stack is None:
            raise StackError(f"stack {name} is gone while it was being changed")
        if stack.status == wanted:
            return stack
        if not stack.status.endswith("_IN_PROGRESS"):
            raise StackError(f"stack {name} ended as {stack.status}, not {wanted}. " + "; ".join(reasons))
        time.sleep(POLL_S)


def events(cloudformation: Any, name: str) -> list[Any]:
    """Return the events of a stack, newest first."""
    pages = cloudformation.get_paginator("describe_stack_events").paginate(StackName=name)
    return [event for page in pages for event in page["StackEvents"]]


def deployed_template(cloudformation: Any, name: str) -> str:
    """Return the text of the template that a stack was last changed with."""
    return str(cloudformation.get_template(StackName=name, TemplateStage="Original")["TemplateBody"])
