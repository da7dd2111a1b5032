"""plan, deploy and rollback against a real HTTP endpoint: moto's server on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto.backends import get_backend
from moto.server import ThreadedMotoServer

from infra.__main__ import main
from infra.template import SERVICE_TEMPLATE

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore:Tried to parse")]  # moto skips types
ROOT = Path(__file__).parents[2]
REGISTRY = "123456789012.dkr.ecr.us-east-1.amazonaws.com/sluice"
TOPIC = """
Parameters:
  Title: {Type: String}
Resources:
  Topic: {Type: AWS::SNS::Topic, Properties: {DisplayName: !Ref Title}}
Outputs:
  TopicArn: {Value: !Ref Topic}
"""
Infra = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def aws() -> Iterator[None]:
    """moto's server, and an environment in which boto3 finds it and nothing else."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.delenv("AWS_PROFILE", raising=False)
        yield
    server.stop()


@pytest.fixture
def infra(aws: None, capsys: pytest.CaptureFixture[str]) -> Infra:
    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(arguments)
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture(scope="module")
def network(aws: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A parameter file with the VPC and the subnets of the endpoint."""
    subnets = boto3.client("ec2").describe_subnets()["Subnets"][:2]
    ids = [subnet["SubnetId"] for subnet in subnets]
    path = tmp_path_factory.mktemp("parameters") / "network.yaml"
    content = {"VpcId": subnets[0]["VpcId"], "LoadBalancerSubnetIds": ids, "ServiceSubnetIds": ids, "MinCapacity": 1}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.fixture
def topic(tmp_path: Path) -> Path:
    path = tmp_path / "topic.yaml"
    path.write_text(TOPIC, encoding="utf-8")
    return path


def image_of(stack: str) -> str:
    """The image in the newest revision of a stack's task definition."""
    task = backend("ecs").describe_task_definition(stack)
    server = task.container_definitions[0]
    return str(server.get("Image", server.get("image")))  # moto spells it either way, so its API sometimes drops it


def backend(service: str) -> Any:
    """The server's memory, which is in this process."""
    return get_backend(service)["123456789012"]["us-east-1"]


def stack_names() -> set[str]:
    return {row["StackName"] for row in boto3.client("cloudformation").describe_stacks()["Stacks"]}


def test_plan_deploy_update_and_rollback_of_the_service(infra: Infra, network: Path, tmp_path: Path) -> None:
    stack = ("--stack", "service")
    past = ("--history", str(tmp_path / "history"))
    image = "Image=" + REGISTRY

    status, out, _ = infra("plan", *stack, "--parameters", str(network), "--parameter", f"{image}:1")
    assert status == 0
    assert "stack service does not exist and would be created" in out
    assert "Add     SaturationPolicy           AWS::ApplicationAutoScaling::ScalingPolicy" in out
    assert "service" not in stack_names()  # the plan left nothing behind
    assert boto3.client("cloudformation").list_change_sets(StackName="service")["Summaries"] == []

    status, out, _ = infra("deploy", *stack, *past, "--parameters", str(network), "--parameter", f"{image}:1")
    assert status == 0
    assert "CREATE_COMPLETE" in out
    assert "release 1 is deployed" in out
    assert "\nUrl           http://" in out
    assert image_of("service") == f"{REGISTRY}:1"

    status, out, _ = infra("plan", *stack, "--parameter", f"{image}:2")
    assert status == 0
    assert f"Image      {REGISTRY}:1  {REGISTRY}:2" in out
    assert image_of("service") == f"{REGISTRY}:1"

    status, out, err = infra("deploy", *stack, *past, "--parameter", f"{image}:2", "--json")
    assert status == 0
    assert "UPDATE_COMPLETE" in err
    after = json.loads(out)
    assert (after["stack"], after["status"], after["release"]) == ("service", "UPDATE_COMPLETE", 2)
    assert after["outputs"]["ServiceName"]
    assert image_of("service") == f"{REGISTRY}:2"

    status, out, _ = infra("rollback", *stack, *past)
    assert status == 0
    assert "going back from release 2 to release 1" in out
    assert f"Image: {REGISTRY}:2 -> {REGISTRY}:1" in out
    assert image_of("service") == f"{REGISTRY}:1"

    status, _, err = infra("rollback", *stack, *past)
    assert status == 1
    assert "release 1, which runs now, is the oldest one recorded" in err


def test_a_plan_of_another_template_names_what_changes(infra: Infra, topic: Path, tmp_path: Path) -> None:
    given = ("--stack", "planned", "--template", str(topic))
    assert infra("deploy", *given, "--history", str(tmp_path), "--parameter", "Title=one")[0] == 0
    topic.write_text(
        TOPIC.replace("!Ref Title", '"fixed"').replace("Outputs:", "  Queue: {Type: AWS::SQS::Queue}\nOutputs:"),
        encoding="utf-8",
    )
    status, out, _ = infra("plan", *given, "--json")
    assert status == 0
    plan = json.loads(out)
    assert plan["exists"] is True
    assert plan["parameters"] == {}
    found = {(change["action"], change["logical_id"], change["resource_type"]) for change in plan["changes"]}
    assert found == {("Add", "Queue", "AWS::SQS::Queue"), ("Modify", "Topic", "AWS::SNS::Topic")}


def test_what_would_change_nothing_is_no_release(infra: Infra, topic: Path, tmp_path: Path) -> None:
    given = ("--stack", "same", "--template", str(topic), "--parameter", "Title=one")
    past = ("--history", str(tmp_path / "history"))
    assert infra("deploy", *given, *past)[0] == 0
    status, out, _ = infra("deploy", *given, *past)
    assert (status, out.splitlines()[0]) == (0, "nothing to change")
    assert len(list((tmp_path / "history" / "same").iterdir())) == 1
    status, out, _ = infra("plan", *given)
    assert (status, out.splitlines()[-1]) == (0, "0 resources and 0 parameters would change")


def test_history_in_a_bucket_brings_back_template_and_parameters(infra: Infra, topic: Path) -> None:
    boto3.client("s3").create_bucket(Bucket="releases")
    given = ("--stack", "remembered", "--template", str(topic), "--history", "s3://releases/infra")
    assert infra("deploy", *given, "--parameter", "Title=one")[0] == 0
    topic.write_text(TOPIC.replace("TopicArn:", "Arn:").replace("Title", "Name"), encoding="utf-8")
    assert infra("deploy", *given, "--parameter", "Name=two")[0] == 0
    keys = [row["Key"] for row in boto3.client("s3").list_objects_v2(Bucket="releases")["Contents"]]
    assert keys == ["infra/remembered/0001.json", "infra/remembered/0002.json"]

    status, out, _ = infra("rollback", "--stack", "remembered", "--history", "s3://releases/infra", "--json")
    assert status == 0
    assert list(json.loads(out)["outputs"]) == ["TopicArn"]
    (stack,) = boto3.client("cloudformation").describe_stacks(StackName="remembered")["Stacks"]
    assert {"ParameterKey": "Title", "ParameterValue": "one"} in stack["Parameters"]
    arn = stack["Outputs"][0]["OutputValue"]
    assert boto3.client("sns").get_topic_attributes(TopicArn=arn)["Attributes"]["DisplayName"] == "one"


def test_an_unreachable_history_is_told_before_anything_is_deployed(infra: Infra, topic: Path) -> None:
    status, _, err = infra(
        "deploy",
        "--stack",
        "unrecorded",
        "--template",
        str(topic),
        "--parameter",
        "Title=x",
        "--history",
        "s3://no-such-bucket",
    )
    assert status == 1
    assert "NoSuchBucket" in err
    assert "unrecorded" not in stack_names()


def test_a_stack_made_elsewhere_can_be_rolled_back_to(infra: Infra, topic: Path, tmp_path: Path) -> None:
    boto3.client("cloudformation").create_stack(
        StackName="found", TemplateBody=TOPIC, Parameters=[{"ParameterKey": "Title", "ParameterValue": "by hand"}]
    )
    past = ("--stack", "found", "--history", str(tmp_path / "history"))
    status, out, _ = infra("deploy", *past, "--template", str(topic), "--parameter", "Title=by us")
    assert status == 0
    assert "recorded found as it was found as release 1" in out
    status, out, _ = infra("rollback", *past)
    assert status == 0
    assert "Title: by us -> by hand" in out


@pytest.mark.parametrize(
    ("state", "way_out"),
    [
        ("ROLLBACK_COMPLETE", "aws cloudformation delete-stack --stack-name stuck"),
        ("REVIEW_IN_PROGRESS", "a plan left it empty"),
        ("UPDATE_IN_PROGRESS", "cancel-update-stack"),
        ("UPDATE_ROLLBACK_FAILED", "continue-update-rollback"),
        ("DELETE_IN_PROGRESS", "wait until it is complete"),
    ],
)
def test_a_stack_that_cannot_be_changed_is_refused_with_the_way_out(
    infra: Infra, topic: Path, tmp_path: Path, state: str, way_out: str
) -> None:
    given = ("--stack", "stuck", "--template", str(topic), "--parameter", "Title=x")
    past = ("--history", str(tmp_path / "history"))
    if "stuck" not in stack_names():
        assert infra("deploy", *given, *past)[0] == 0
    (stack,) = (one for one in backend("cloudformation").stacks.values() if one.name == "stuck")
    stack.status = state  # the states that moto itself never leaves a stack in
    try:
        for command in (("plan", *given), ("deploy", *given, *past)):
            status, _, err = infra(*command)
            assert status == 1
            assert f"stack stuck is {state} and cannot be changed" in err
            assert way_out in err
    finally:
        stack.status = "CREATE_COMPLETE"


def test_a_deployment_that_ends_badly_is_an_error_and_no_release(
    infra: Infra, topic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    past = ("--stack", "bad", "--history", str(tmp_path / "history"), "--template", str(topic))
    assert infra("deploy", *past, "--parameter", "Title=good")[0] == 0
    (stack,) = (one for one in backend("cloudformation").stacks.values() if one.name == "bad")
    update = type(stack).update

    def fail(self: Any, *arguments: Any, **named: Any) -> None:
        update(self, *arguments, **named)
        self._add_stack_event("UPDATE_FAILED", resource_status_reason="the circuit breaker was triggered")
        self.status = "UPDATE_ROLLBACK_COMPLETE"

    monkeypatch.setattr(type(stack), "update", fail)
    status, _, err = infra("deploy", *past, "--parameter", "Title=bad")
    assert status == 1
    assert "stack bad ended as UPDATE_ROLLBACK_COMPLETE, not UPDATE_COMPLETE" in err
    assert "the circuit breaker was triggered" in err
    assert len(list((tmp_path / "history" / "bad").iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rollback", "--stack", "nowhere"), "was --history the same as for deploy"),
        (("plan", "--stack", "new"), "no value for Image, VpcId, LoadBalancerSubnetIds, ServiceSubnetIds"),
        (("plan", "--stack", "new", "--parameter", "Imgae=x"), "did you mean Image?"),
        (("deploy", "--stack", "new", "--template", "none.yaml"), "cannot read the template none.yaml"),
    ],
)
def test_a_wrong_request_is_told_without_a_traceback(
    infra: Infra, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    past = ("--history", str(tmp_path)) if arguments[0] != "plan" else ()
    status, _, err = infra(*arguments, *past)
    assert status == 1
    assert err.startswith("error: ")
    assert message in err


def test_without_a_region_the_variable_to_set_is_named(
    infra: Infra, topic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    status, _, err = infra("plan", "--stack", "x", "--template", str(topic), "--parameter", "Title=x")
    assert (status, err) == (1, "error: no region; set AWS_DEFAULT_REGION, or a region in the profile\n")


def test_the_command_itself_exits_as_it_says(aws: None, tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "infra", *arguments],
            cwd=ROOT,
            env=os.environ,
            capture_output=True,
            text=True,
            timeout=60,
        )

    helped = run("--help")
    assert helped.returncode == 0
    assert all(
        word in helped.stdout for word in ("validate", "plan", "deploy", "rollback", "exit status", "AWS_ENDPOINT_URL")
    )
    assert run("plan").returncode == 2
    refused = run("rollback", "--stack", "x", "--history", str(tmp_path))
    assert (refused.returncode, refused.stdout) == (1, "")


def test_the_image_understands_the_command_of_the_task(tmp_path: Path) -> None:
    """The bento image's own entry point, with a `bentoml` that only prints, gets the task's command."""
    from importlib.util import find_spec

    from infra.template import load

    package = Path(next(iter(find_spec("bentoml").submodule_search_locations)))
    (entry_point,) = package.rglob("entrypoint.sh")
    fake = tmp_path / "bentoml"
    fake.write_text('#!/bin/sh\necho "$@"\n', encoding="utf-8")
    fake.chmod(0o755)
    server = load(SERVICE_TEMPLATE).property("TaskDefinition", "ContainerDefinitions", 0)
    words = server["Command"]
    done = subprocess.run(
        ["bash", str(entry_point), *words],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "BENTO_PATH": "/home/bentoml/bento"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "serve --timeout-keep-alive 315 /home/bentoml/bento\n"
    source = (package.parent / "bentoml_cli" / "serve.py").read_text(encoding="utf-8")
    assert all(f'"{word}"' in source for word in words if word.startswith("--"))
