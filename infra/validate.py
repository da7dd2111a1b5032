"""Everything that can be proved about a template without an AWS account, as a list of checks.

In the order of their cost: cfn-lint, the rules over the parsed template, moto, checkov.
"""

from __future__ import annotations

from pathlib import Path

from infra import access_rules, policy_scan, scaling_rules, service_rules
from infra.checks import Check
from infra.dry_run import dry_run
from infra.errors import InfraError
from infra.lint import lint
from infra.rules import run
from infra.template import Template, load

RULES = (*service_rules.RULES, *scaling_rules.RULES, *access_rules.RULES)


def validate(path: Path) -> list[Check]:
    """Run every check on a template; a check that cannot run has failed."""
    try:
        template = load(path)
    except InfraError as error:
        return [Check("template", False, str(error))]
    return [lint(template), *run(RULES, template), *dry_run(template), *policies(template)]


def policies(template: Template) -> list[Check]:
    """Run checkov on one template; without its environment the check fails with the command that makes it."""
    try:
        return policy_scan.judge(template, policy_scan.scan([template.path])[template.path])
    except InfraError as error:
        return [Check("checkov", False, str(error))]
