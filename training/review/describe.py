"""A measurement with all that is needed to read it: command, commit, machine, versions, data."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from training.checkpoint import git_commit, versions
from training.hardware import this_machine


def described(command: str, datasets: Mapping[str, str], measured: BaseModel) -> dict[str, Any]:
    """The figures below what they depend on."""
    return {
        "command": command,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "machine": this_machine().model_dump(exclude_none=True),
        "versions": versions(),
        "datasets": dict(datasets),
        **measured.model_dump(),
    }
