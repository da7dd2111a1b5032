"""Where a run was made: commit, machine and library versions, and the command line without its secrets."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import psutil

from loadtests.results import Distribution, GeneratorFacts

LIBRARIES = ("locust", "gevent", "geventhttpclient", "pydantic")


def describe_generator(cpu_share: float | None, loop_lag: Distribution | None) -> GeneratorFacts:
    """Describe this machine, this process and how well it kept up."""
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--untracked-files=no")
    return GeneratorFacts(
        git_commit=commit,
        git_dirty=None if commit is None or status is None else bool(status),
        cpu_model=_cpu_model(),
        cores=_usable_cores(),
        memory_bytes=psutil.virtual_memory().total,
        platform=platform.platform(),
        python=platform.python_version(),
        libraries={name: metadata.version(name) for name in LIBRARIES},
        cpu_share=cpu_share,
        loop_lag=loop_lag,
    )


def describe_command(arguments: Sequence[str]) -> str:
    """Return the command line that repeats the run, the API key blotted out."""
    shown: list[str] = []
    for argument in arguments:
        if argument.startswith("--api-key="):
            shown.append("--api-key=***")
        elif shown and shown[-1] == "--api-key":
            shown.append("***")
        else:
            shown.append(argument)
    return "python -m loadtests " + shlex.join(shown)


def _git(*arguments: str) -> str | None:
    """Return git's answer about the folder of this file, None outside a checkout or without git."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: platform knows, if anybody
    return platform.processor() or platform.machine()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
