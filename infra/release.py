"""Releases of a stack: deploy one, go back to the one before; each that succeeds is recorded in the history."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra import history, parameters, stack
from infra.errors import StackError
from infra.history import History, Release
from infra.stack import Stack
from infra.template import Template, load

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The stack after a deployment and the release that it became; None if nothing was to be changed."""

    stack: Stack
    release: Release | None


def deploy(cloudformation: Any, past: History, template: Template, given: Mapping[str, str], say: Say) -> Outcome:
    """Create or update a stack, wait, and record the release.

    What is not given stays as it was deployed. A stack that was made elsewhere is first recorded as it was found, so
    that there is something to go back to. Raises InfraError, of which StackError means that the stack did not change
    or was put back.
    """
    releases = past.releases()  # also tells now, not after the deployment, that the history cannot be reached
    before = stack.current(cloudformation, past.stack)
    if before and not releases:
        found = past.append("found", stack.deployed_template(cloudformation, past.stack), before.parameters)
        releases = [found]
        say(f"recorded {past.stack} as it was found as release {found.number}")
    known = releases[-1].parameters if before and releases else {}
    after = stack.change(cloudformation, past.stack, before, template, given, say)
    if after is before:
        return Outcome(after, None)
    values = parameters.effective(template, given, known)
    return Outcome(after, past.append("deploy", template.text, values))


def rollback(cloudformation: Any, past: History, say: Say) -> Outcome:
    """Deploy the template and the parameters of the previous release again, wait, and record it.

    Raises InfraError if no previous release is recorded, StackError if there is no stack or it did not change.
    """
    releases = past.releases()
    target = history.previous(releases)
    before = stack.current(cloudformation, past.stack)
    if before is None:
        raise StackError(f"there is no stack {past.stack}")
    say(f"going back from release {releases[-1].number} to release {target.number} of {target.at:%Y-%m-%d %H:%M} UTC")
    now = releases[-1].parameters
    for name, value in target.parameters.items():
        if now.get(name) != value:
            say(f"  {name}: {now.get(name)} -> {value}")
    with tempfile.TemporaryDirectory(prefix="sluice-rollback-") as folder:
        path = Path(folder) / "template.yaml"
        path.write_text(target.template, encoding="utf-8")
        template = load(path)
    after = stack.change(cloudformation, past.stack, before, template, target.parameters, say)
    if after is before:
        return Outcome(after, None)
    return Outcome(after, past.append("rollback", target.template, target.parameters, restores=target.number))
