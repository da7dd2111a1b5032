"""checkov over templates, offline, and no skip without a reason.

A skip stands at its resource, as Metadata.checkov.skip with `id` and `comment`; there is no other way to silence a
check here: configuration files and environment variables that checkov would read are kept from it.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.checkov_env import find
from infra.checks import Check
from infra.errors import InfraError
from infra.template import Template

TIME_LIMIT_S = 120
SHORTEST_REASON = 20  # characters; "not needed" is no reason


@dataclass(frozen=True, slots=True)
class Scan:
    """What checkov said about one template: passed, failed and skipped as (check id, logical id), with messages."""

    version: str
    passed: tuple[tuple[str, str], ...]
    failed: Mapping[tuple[str, str], str]
    skipped: tuple[tuple[str, str], ...]
    unreadable: bool


@dataclass(frozen=True, slots=True)
class Skip:
    """A check that a resource's Metadata switches off, and why."""

    check_id: str
    logical_id: str
    reason: str


def scan(paths: Sequence[Path]) -> dict[Path, Scan]:
    """Scan templates in one run of checkov (its start takes most of the time).

    Raises InfraError if checkov's environment is missing, if checkov fails, or if it runs longer than two minutes.
    """
    with tempfile.TemporaryDirectory(prefix="sluice-checkov-") as empty:
        command = [str(find()), "-m", "checkov.main", "--framework", "cloudformation", "--output", "json"]
        command += ["--skip-download", "--compact", "--soft-fail"]
        for path in paths:
            command += ["--file", str(path.resolve())]
        try:
            done = subprocess.run(
                command,
                cwd=empty,
                env=clean_environment(home=empty),
                capture_output=True,
                text=True,
                timeout=TIME_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise InfraError(f"checkov did not end within {TIME_LIMIT_S} s") from None
    try:
        report = json.loads(done.stdout)
    except ValueError:
        raise InfraError(f"checkov failed (exit status {done.returncode}): {done.stderr.strip()[-2000:]}") from None
    return {path: of_file(report, path) for path in paths}


def clean_environment(home: str) -> dict[str, str]:
    """Return the environment without what configures checkov or would let it look, or report, elsewhere."""
    foreign = ("BC_", "CKV_", "CHECKOV_", "PRISMA_", "BRIDGECREW_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    # Without the second one it asks a package index for newer versions of itself.
    return kept | {"HOME": home, "CKV_SKIP_PACKAGE_UPDATE_CHECK": "true"}


def of_file(report: Any, path: Path) -> Scan:
    """Return the part of checkov's report that concerns one file."""
    results = report.get("results", {})  # a run that could check nothing reports counts only
    where = str(path.resolve())

    def rows(kind: str) -> Iterator[Any]:
        return (row for row in results.get(kind, []) if row["file_abs_path"] == where)

    def key(row: Any) -> tuple[str, str]:
        return str(row["check_id"]), str(row["resource"]).rpartition(".")[2]

    return Scan(
        version=str((report.get("summary") or report).get("checkov_version")),
        passed=tuple(key(row) for row in rows("passed_checks")),
        failed={key(row): str(row["check_name"]) for row in rows("failed_checks")},
        skipped=tuple(key(row) for row in rows("skipped_checks")),
        unreadable=where in map(str, results.get("parsing_errors", [])),
    )


def judge(template: Template, result: Scan) -> list[Check]:
    """Return two checks: nothing failed (and something was looked at), and every skip has a reason and a use."""
    faults = [f"{check} {resource}: {text}" for (check, resource), text in sorted(result.failed.items())]
    if result.unreadable:
        faults.append("checkov could not parse the template")
    elif not result.passed:
        faults.append("checkov found nothing to look at, which proves nothing")
    counts = f"{len(result.passed)} passed, {len(result.failed)} failed ({result.version}, offline)"
    declared = list(skips(template))
    problems = [
        f"{skip.check_id} at {skip.logical_id} has no reason worth the name: {skip.reason!r}"
        for skip in declared
        if len(skip.reason) < SHORTEST_REASON
    ]
    known = {(skip.check_id, skip.logical_id) for skip in declared}
    used = set(result.skipped)
    problems += [f"{check} at {resource} skips nothing; remove it" for check, resource in sorted(known - used)]
    problems += [f"{check} at {resource} is skipped outside of Metadata" for check, resource in sorted(used - known)]
    listed = ", ".join(f"{skip.check_id} at {skip.logical_id}" for skip in declared) or "none"
    return [
        Check("checkov", not faults, counts, tuple(faults)),
        Check("checkov/skips-have-reasons", not problems, f"{len(declared)} skips: {listed}", tuple(problems)),
    ]


def skips(template: Template) -> Iterator[Skip]:
    """Yield every skip that the template declares; one that is malformed has an empty reason."""
    for logical_id, resource in template.resources.items():
        for entry in resource.get("Metadata", {}).get("checkov", {}).get("skip", []):
            yield Skip(str(entry.get("id")), logical_id, str(entry.get("comment") or "").strip())
