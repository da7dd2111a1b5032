"""The outcome of one check: a name, whether it passed, and the evidence; printed as one line, or as JSON.

It does not know what is checked; `validate` puts the checks together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """One line of a validation: `details` say what is wrong where one line cannot."""

    name: str
    passed: bool
    evidence: str
    details: tuple[str, ...] = ()


def as_lines(checks: Sequence[Check]) -> list[str]:
    """Return one line per check, the details of failed ones below them, and a last line that counts."""
    width = max((len(check.name) for check in checks), default=0)
    lines = []
    for check in checks:
        lines.append(f"{'ok  ' if check.passed else 'FAIL'}  {check.name:<{width}}  {check.evidence}")
        if not check.passed:
            lines += [f"      - {detail}" for detail in check.details]
    failed = sum(not check.passed for check in checks)
    return [*lines, f"{len(checks)} checks, {failed} failed"]


def as_json(checks: Sequence[Check]) -> str:
    """Return the same as a JSON object: `passed` for all of them, and `checks`."""
    return json.dumps(
        {"passed": all(check.passed for check in checks), "checks": [asdict(check) for check in checks]}, indent=2
    )
