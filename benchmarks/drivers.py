"""Our own drivers, each in a process of its own, so that its interpreter is not in the way of what reads its result."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.wrk import DriverFailed


def driver(module: str, url: str, bodies: Path, *, seconds: float, **options: float | str) -> dict[str, Any]:
    """Run `python -m benchmarks.MODULE` to its end. Raises DriverFailed."""
    command = [sys.executable, "-m", f"benchmarks.{module}", url, str(bodies)]
    for name, value in {"seconds": seconds, **options}.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120)
    if done.returncode:
        raise DriverFailed(f"benchmarks.{module} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result
