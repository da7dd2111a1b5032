"""The command line: python -m infra validate | plan | deploy | rollback | checkov-env."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError, NoRegionError

from infra import checkov_env, parameters, release, stack
from infra.checks import as_json, as_lines
from infra.errors import InfraError
from infra.history import History
from infra.template import SERVICE_TEMPLATE, load

EPILOG = """\
exit status: 0 done (for validate: every check passed), 1 not done, 2 wrong usage, 130 interrupted.
AWS is the one that boto3 finds: AWS_ENDPOINT_URL, AWS_PROFILE, AWS_DEFAULT_REGION and so on.

  python -m infra validate
  python -m infra plan     --stack sluice --parameters production.yaml
  python -m infra deploy   --stack sluice --parameter Image=123456789012.dkr.ecr.eu-central-1.amazonaws.com/sluice:2
  python -m infra rollback --stack sluice
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="python -m infra",
        description="Validate the CloudFormation template without an AWS account; plan, deploy and roll back a stack.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON object; progress goes to stderr")
    templated = argparse.ArgumentParser(add_help=False)
    templated.add_argument(
        "--template", type=Path, default=SERVICE_TEMPLATE, metavar="FILE", help="default: infra/templates/service.yaml"
    )
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--stack", required=True, metavar="NAME", help="name of the CloudFormation stack")
    valued = argparse.ArgumentParser(add_help=False)
    valued.add_argument("--parameters", type=Path, metavar="FILE", help="YAML mapping of parameters to values")
    valued.add_argument(
        "--parameter", action="append", default=[], metavar="NAME=VALUE", help="one parameter; wins over the file"
    )
    remembered = argparse.ArgumentParser(add_help=False)
    remembered.add_argument(
        "--history",
        default="runs/infra",
        metavar="PLACE",
        help="folder or s3://bucket/prefix where releases are recorded (default: runs/infra)",
    )
    for name, text, parents in (
        ("validate", "cfn-lint, checkov, rules and moto over the template; needs no AWS", [common, templated]),
        ("plan", "show what deploy would change, and change nothing", [common, templated, named, valued]),
        ("deploy", "create or update the stack, and wait", [common, templated, named, valued, remembered]),
        ("rollback", "deploy the previous recorded release again", [common, named, remembered]),
    ):
        commands.add_parser(name, help=text, description=text, parents=parents)
    made = "make the environment of its own that checkov needs (once; `make test` does it)"
    commands.add_parser("checkov-env", help=made, description=made)
    return top


def validate(options: argparse.Namespace) -> int:
    """Print one line per check; 0 if all passed."""
    # moto and the rest that only this command needs take a second to import.
    from infra.validate import validate as run

    checks = run(options.template)
    print(as_json(checks) if options.json else "\n".join(as_lines(checks)))
    return 0 if all(check.passed for check in checks) else 1


def make_checkov_env(options: argparse.Namespace) -> int:
    """Make checkov's environment unless it is there and current."""
    if checkov_env.is_current():
        print(f"checkov's environment is up to date: {checkov_env.FOLDER}")
        return 0
    print(f"making checkov's environment in {checkov_env.FOLDER} (about half a minute)", flush=True)
    checkov_env.make()
    print("done")
    return 0


def plan(options: argparse.Namespace) -> int:
    """Print what a deployment would change."""
    given = parameters.read(options.parameters, options.parameter)
    found = stack.plan(stack.client(), options.stack, load(options.template), given)
    if options.json:
        print(json.dumps(asdict(found), indent=2))
        return 0
    print(f"stack {found.stack} {'exists' if found.exists else 'does not exist and would be created'}")
    if found.parameters:
        print(table([("parameter", "now", "after"), *((name, *pair) for name, pair in found.parameters.items())]))
    if found.changes:
        rows = [(one.action, one.logical_id, one.resource_type, one.replaced) for one in found.changes]
        print(table([("action", "resource", "type", "replaced"), *rows]))
    print(f"{len(found.changes)} resources and {len(found.parameters)} parameters would change")
    return 0


def deploy(options: argparse.Namespace) -> int:
    """Create or update the stack and print its outputs."""
    given = parameters.read(options.parameters, options.parameter)
    past = History(options.history, options.stack)
    return tell(options, release.deploy(stack.client(), past, load(options.template), given, progress(options)))


def rollback(options: argparse.Namespace) -> int:
    """Deploy the previous release again and print the stack's outputs."""
    past = History(options.history, options.stack)
    return tell(options, release.rollback(stack.client(), past, progress(options)))


def progress(options: argparse.Namespace) -> release.Say:
    """Return how to tell progress: lines on stdout, or on stderr where stdout is JSON."""
    return lambda line: print(line, file=sys.stderr if options.json else sys.stdout, flush=True)


def tell(options: argparse.Namespace, outcome: release.Outcome) -> int:
    """Print how a deployment ended."""
    number = outcome.release.number if outcome.release else None
    if options.json:
        after = {"stack": outcome.stack.name, "status": outcome.stack.status, "release": number}
        print(json.dumps({**after, "outputs": dict(outcome.stack.outputs)}, indent=2))
        return 0
    print(f"release {number} is deployed" if number else "nothing to change")
    if outcome.stack.outputs:
        print(table(list(outcome.stack.outputs.items())))
    return 0


def table(rows: Sequence[Sequence[str | None]]) -> str:
    """Return rows in aligned columns, - for what is missing or empty."""
    texts = [[cell or "-" for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in texts
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    options = parser().parse_args(arguments)
    commands = {
        "validate": validate,
        "plan": plan,
        "deploy": deploy,
        "rollback": rollback,
        "checkov-env": make_checkov_env,
    }
    try:
        return commands[options.command](options)
    except NoRegionError:
        problem = "no region; set AWS_DEFAULT_REGION, or a region in the profile"
    except (InfraError, ClientError, BotoCoreError) as error:
        problem = str(error)
    except KeyboardInterrupt:
        print("\nstopped watching; what was asked of AWS goes on", file=sys.stderr)
        return 130
    print(f"error: {problem}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
