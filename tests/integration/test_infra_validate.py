"""`python -m infra validate` as a user runs it, and checkov itself over the real template and damaged copies of it.

checkov is slow to start, so it runs twice here: within the command, and once over all the damaged copies. Both runs are
watched for connections: nothing may leave the machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import policy_scan
from infra.checks import Check
from infra.template import SERVICE_TEMPLATE, load

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]

# Imported by every Python that starts with this file's folder on its path: notes and refuses any way out.
WATCH = """
import os, socket

def refuse(name, original):
    def call(*arguments, **named):
        target = arguments[1] if isinstance(arguments[0], socket.socket) else arguments[0]
        if not (isinstance(target, (str, bytes)) and name == "connect"):  # a unix socket has a path
            with open(os.environ["SLUICE_TEST_CALLS"], "a") as log:
                log.write(f"{name} {target}\\n")
            raise OSError("the test allows no connection")
        return original(*arguments, **named)
    return call

socket.socket.connect = refuse("connect", socket.socket.connect)
socket.getaddrinfo = refuse("getaddrinfo", socket.getaddrinfo)
"""


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Watch every Python that is started from here; yields the file where tried connections are noted."""
    folder = tmp_path_factory.mktemp("watch")
    (folder / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
    log = folder / "calls"
    log.touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("SLUICE_TEST_CALLS", str(log))
        yield log


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "infra", *arguments],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_real_template_passes_without_a_network(calls: Path) -> None:
    done = command("validate", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["passed"] is True
    evidence = {check["name"]: check["evidence"] for check in report["checks"]}
    assert all(evidence.values())
    assert evidence["cfn-lint"].startswith("0 errors and warnings")
    assert ", 0 failed" in evidence["checkov"]
    assert {"moto/skipped-types", "checkov/skips-have-reasons", "template/scaling-tracks-saturation"} <= evidence.keys()
    assert calls.read_text(encoding="utf-8") == ""


def test_the_watch_would_have_seen_a_connection(calls: Path) -> None:
    code = "import urllib.request\ntry: urllib.request.urlopen('http://127.0.0.1:9')\nexcept OSError: pass"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert "getaddrinfo 127.0.0.1" in calls.read_text(encoding="utf-8")
    calls.write_text("", encoding="utf-8")


DAMAGED = {  # name: (what stands in the real template, what stands there instead)
    "wildcard": (
        "logs:CreateLogStream, logs:PutLogEvents]\n                Resource: !GetAtt MetricsLogGroup.Arn",
        '"*"]\n                Resource: "*"',
    ),
    "undescribed": ('CidrIp: 0.0.0.0/0, Description: "ECR, CloudWatch, Secrets Manager"', "CidrIp: 0.0.0.0/0"),
    "lenient": (
        'drop_invalid_header_fields.enabled, Value: "true"',
        'drop_invalid_header_fields.enabled, Value: "false"',
    ),
    "skip-without-reason": (
        "comment: The TLS policy is set under the condition HasCertificate, which checkov does not follow.",
        "comment: ok",
    ),
    "skip-in-a-comment": (
        "    Type: AWS::ECS::Cluster\n",
        "    # checkov:skip=CKV_AWS_65:hidden\n    Type: AWS::ECS::Cluster\n",
    ),
    "skip-of-nothing": ("- id: CKV_AWS_2\n", "- id: CKV_AWS_3\n"),
}


@pytest.fixture(scope="module")
def scanned(calls: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Check]]:
    """Every damaged copy as checkov judges it, from one run."""
    folder = tmp_path_factory.mktemp("damaged")
    text = SERVICE_TEMPLATE.read_text(encoding="utf-8")
    paths = {}
    for name, (old, new) in DAMAGED.items():
        assert old in text, name
        paths[name] = folder / f"{name}.yaml"
        paths[name].write_text(text.replace(old, new), encoding="utf-8")
    scans = policy_scan.scan(list(paths.values()))
    assert calls.read_text(encoding="utf-8") == ""
    return {name: policy_scan.judge(load(path), scans[path]) for name, path in paths.items()}


@pytest.mark.parametrize(
    ("name", "check", "detail"),
    [
        ("wildcard", "checkov", "CKV_AWS_63 TaskRole"),
        ("undescribed", "checkov", "CKV_AWS_23 TaskSecurityGroup"),
        ("lenient", "checkov", "CKV_AWS_131 LoadBalancer"),
        ("skip-without-reason", "checkov/skips-have-reasons", "CKV_AWS_103 at Listener has no reason"),
        ("skip-in-a-comment", "checkov/skips-have-reasons", "CKV_AWS_65 at Cluster is skipped outside of Metadata"),
        ("skip-of-nothing", "checkov/skips-have-reasons", "CKV_AWS_3 at Listener skips nothing"),
        ("skip-of-nothing", "checkov", "CKV_AWS_2 Listener"),
    ],
)
def test_checkov_notices_damage(scanned: dict[str, list[Check]], name: str, check: str, detail: str) -> None:
    (judged,) = (one for one in scanned[name] if one.name == check)
    assert not judged.passed
    assert detail in " ".join(judged.details)


def test_a_broken_template_exits_with_1_and_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("Resources:\n  A: {Type: AWS::ECS::Service\n", encoding="utf-8")
    done = command("validate", "--template", str(path))
    assert done.returncode == 1
    assert "FAIL  template  " in done.stdout
    assert "is not a template: line" in done.stdout
    assert "1 checks, 1 failed" in done.stdout
    assert done.stderr == ""
