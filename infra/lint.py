"""cfn-lint with warnings as errors, and with nothing that could silence it.

It says whether AWS would accept the template, not whether the template does what we want; `*_rules` do that.
"""

from __future__ import annotations

from importlib.metadata import version

from infra.checks import Check
from infra.template import Template

REGIONS = ["us-east-1", "eu-central-1", "ap-southeast-1"]


def lint(template: Template) -> Check:
    """Lint for three regions; any error or warning fails, informational findings do not count."""
    # A slow import that only this check needs.
    from cfnlint.api import lint as cfn_lint  # type: ignore[import-untyped]
    from cfnlint.config import ManualArgs  # type: ignore[import-untyped]

    # Mandatory checks run whatever the template's Metadata or somebody's .cfnlintrc says is to be ignored.
    matches = cfn_lint(template.text, config=ManualArgs(regions=REGIONS, mandatory_checks=["E", "W"]))
    findings = [match for match in matches if match.rule.id[0] in "EW"]
    return Check(
        name="cfn-lint",
        passed=not findings,
        evidence=f"{len(findings)} errors and warnings ({version('cfn-lint')}; {', '.join(REGIONS)})",
        details=tuple(f"{match.rule.id} line {match.linenumber}: {match.message}" for match in findings),
    )
