"""Drive a live server over HTTP, write results.json and report.html, and judge them by an SLO file.

Exit codes: 0 every SLO rule held (or no SLO file was given), 1 a rule was violated, 2 a wrong argument, file or key,
3 the server cannot be reached, is not ready or answered nothing as asked, 70 a fault of the generator, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic_core import PydanticUndefined

from loadtests.errors import LoadTestError, UsageError
from loadtests.progress import Progress
from loadtests.provenance import describe_command
from loadtests.report import write_report
from loadtests.results import Ending, RunResults, Verdict
from loadtests.settings import RunSettings, api_key_from_environment, build_settings, parse_assignments
from loadtests.slo import read_slo
from loadtests.summary import summarise

EXIT_PASS, EXIT_VIOLATED, EXIT_NO_SERVER, EXIT_INTERRUPTED = 0, 1, 3, 130
ASSIGNED = ("users", "models")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; the options of `run` are the fields of RunSettings."""
    # Without abbreviations: the record of the command line blots out `--api-key`, and must not miss a short form of it.
    parser = argparse.ArgumentParser(
        prog="python -m loadtests", description="Load-test a live server over HTTP.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run",
        help="drive a server, write results.json and report.html, judge them by an SLO file",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name, field in RunSettings.model_fields.items():
        default = field.default
        shown = "" if default in (None, PydanticUndefined) else f" (default: {default})"
        option = f"--{field.alias or name}"
        run.add_argument(
            option, dest=field.alias or name, default=argparse.SUPPRESS, help=f"{field.description}{shown}"
        )
    run.add_argument("--json", action="store_true", help="print the results as JSON on stdout, the summary on stderr")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    options = vars(build_parser().parse_args(arguments))
    # Locust reports its own troubles through logging; the state of the run goes to stderr by progress.py.
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    try:
        return _run(options, arguments)
    except LoadTestError as error:
        print(f"loadtests: {error}", file=sys.stderr)
        return error.exit_code


def _run(options: dict[str, object], arguments: Sequence[str]) -> int:
    as_json = options.pop("json")
    options.pop("command")
    settings = _settings(options)
    slo = None if settings.slo is None else read_slo(settings.slo)
    _check_writable(settings.out)
    # Locust patches the standard library for gevent when it is imported: only now, and only in a run.
    from loadtests.run import run_load_test

    results = run_load_test(settings, slo, describe_command(arguments), Progress(sys.stderr))
    paths = write_report(results, settings.out)
    print(summarise(results, paths), file=sys.stderr if as_json else sys.stdout)
    if as_json:
        print(results.model_dump_json(indent=2))
    return exit_code(results)


def exit_code(results: RunResults) -> int:
    """Return the exit code that a finished run stands for."""
    if results.verdict is Verdict.FAIL:
        return EXIT_VIOLATED
    if results.ending is Ending.INTERRUPTED:
        return EXIT_INTERRUPTED
    return EXIT_PASS if results.totals.ok else EXIT_NO_SERVER


def _settings(options: dict[str, object]) -> RunSettings:
    values = dict(options)
    for name in ASSIGNED:
        if isinstance(text := values.get(name), str):
            values[name] = parse_assignments(text, f"--{name}")
    if "api-key" not in values and (key := api_key_from_environment()):
        values["api-key"] = key
    return build_settings(values)


def _check_writable(folder: Path) -> None:
    """Find out before the run, not after it, that its report cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"--out {folder}: cannot be written: {error.strerror}") from error
