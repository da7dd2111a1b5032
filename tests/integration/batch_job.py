"""A batch job as a user runs it: the command as a process, its input, and what lies in its output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from runtime.backends.fake import write_fake_artifact
from tests.integration.s3_server import environ_of


def make_store(home: Path) -> Path:
    """A model store with a fast and a slow matching model and a generation model, none of which needs weights."""
    write_fake_artifact(home / "models/m/1", "matching")
    write_fake_artifact(home / "models/slow/1", "matching", latency_s=0.05)
    write_fake_artifact(home / "models/g/1", "generation")
    return home


def pairs(count: int) -> bytes:
    """JSONL of pairs with ids."""
    rows = [{"id": f"r{n}", "text_a": f"word{n % 7} a b", "text_b": f"word{n % 5} b"} for n in range(count)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write_job(folder: Path, **settings: Any) -> Path:
    """A job file."""
    path = folder / "job.yaml"
    path.write_text(json.dumps({"model": "m", "shard_rows": 25, **settings}))  # JSON is YAML
    return path


def start(home: Path, job: Path, *arguments: str, endpoint: str = "", action: str = "run") -> subprocess.Popen[str]:
    """The command, in a process group of its own."""
    environ = {**os.environ, "BENTOML_HOME": str(home), **(environ_of(endpoint) if endpoint else {})}
    command = [sys.executable, "-m", "batch", action, str(job), "--json", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ, start_new_session=True
    )


def run(
    home: Path, job: Path, *arguments: str, endpoint: str = "", action: str = "run"
) -> tuple[int, dict[str, Any], str]:
    """(exit code, report, log) of a run to its end."""
    process = start(home, job, *arguments, endpoint=endpoint, action=action)
    out, err = process.communicate(timeout=120)
    return process.returncode, json.loads(out) if out.strip() else {}, err


def contents(client: Any, prefix: str = "") -> dict[str, bytes]:
    """Key below `prefix` -> bytes of every object in the bucket `data-out`."""
    found = client.list_objects_v2(Bucket="data-out", Prefix=prefix).get("Contents", ())
    return {
        item["Key"].removeprefix(prefix): client.get_object(Bucket="data-out", Key=item["Key"])["Body"].read()
        for item in found
    }


def worker_of(pid: int) -> int | None:
    """A process that scores: a child of `pid` that is not Python's resource tracker."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found = (child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes())
    return next((int(child) for child in found), None)


def is_running(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except OSError:
        return False
