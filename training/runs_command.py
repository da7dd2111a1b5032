"""`python -m training runs list|compare`: what was trained, how good it is, and what differs between runs.

Reads the records that `train` and `tune` leave in run folders; changes nothing.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.errors import InvalidInput
from training.run_record import RECORD_FILE, TrainRecord, read_record

# What a run's row shows of its figures, the first that it has: test where it was looked at, else the best validation.
SHOWN = ("f1", "roc_auc", "perplexity", "bits_per_byte")


def described(run: Path) -> dict[str, Any]:
    """A run as JSON values. Raises InvalidInput: no record, or a damaged one."""
    record = read_record(run)
    if record is None:
        raise InvalidInput(f"{run} is no run folder: it has no {RECORD_FILE}.")
    usage = record.usage
    return {
        "run": str(run),
        "name": record.recipe.name,
        "status": _status(run, record),
        "kind": record.recipe.model.kind,
        "started": record.started.isoformat(),
        "seconds": record.seconds,
        "best": record.best,
        "valid": record.valid,
        "test": record.test,
        "depends_on": record.depends_on,
        "git_commit": record.git_commit,
        "versions": record.versions,
        "hardware": record.hardware.model_dump() if record.hardware else None,
        "threads": record.threads,
        "usage": usage.model_dump(),
        "artifacts": sorted(path.parent.name for path in run.glob("*/manifest.json")),
    }


def list_runs(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The runs below `folder`, oldest first, and what is wrong with those that cannot be read."""
    runs, problems = [], []
    for record in sorted(folder.glob(f"*/{RECORD_FILE}")):
        try:
            runs.append(described(record.parent))
        except InvalidInput as error:
            problems.append(str(error))
    return sorted(runs, key=lambda run: (run["started"], run["run"])), problems


def differences(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Name -> the runs' values, for all that they do not share: settings, rows, base, commit, versions, machine."""
    flat = [
        {
            **run["depends_on"],
            "git commit": run["git_commit"],
            **{f"version of {name}": value for name, value in run["versions"].items()},
            **{f"machine: {name}": value for name, value in (run["hardware"] or {}).items()},
            "threads": run["threads"],
        }
        for run in runs
    ]
    names = dict.fromkeys(name for each in flat for name in each)
    values = {name: [each.get(name) for each in flat] for name in names}
    return {name: each for name, each in values.items() if any(value != each[0] for value in each)}


def figures(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Name -> the runs' values, None where one has none: best validation, valid, test, and what they took."""
    flat = []
    for run in runs:
        best, usage = run["best"], run["usage"]
        taken = {"seconds": run["seconds"], **{name: usage[name] for name in ("rows_per_s", "tokens_per_s")}}
        flat.append(
            ({f"best {best['metric']}": best["value"], "best step": best["step"]} if best else {})
            | {f"{split} {name}": value for split in ("valid", "test") for name, value in run[split].items()}
            | taken
            | {"peak memory MiB": round(usage["peak_memory_bytes"] / 2**20)}
        )
    names = dict.fromkeys(name for each in flat for name in each)
    return {name: [each.get(name) for each in flat] for name in names}


def main(arguments: list[str]) -> int:
    """The command. Exit codes: 0 shown, 1 a run cannot be read, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m training runs", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    lister = commands.add_parser("list", help="every run of a folder, a line each")
    lister.add_argument(
        "folder", type=Path, nargs="?", default=Path("runs"), help="default: runs; or a search's trials"
    )
    comparer = commands.add_parser("compare", help="what differs between runs, and their figures side by side")
    comparer.add_argument("runs", nargs="+", metavar="RUN", help="a run folder, or its name below --runs")
    comparer.add_argument("--runs", dest="folder", type=Path, default=Path("runs"), metavar="FOLDER")
    for each in (lister, comparer):
        each.add_argument("--json", action="store_true", help="all there is, for a script")
    options = parser.parse_args(arguments)
    try:
        return _list(options.folder, options.json) if options.command == "list" else _compare(options)
    except InvalidInput as error:
        print(f"runs: {error}", file=sys.stderr)
        return 1


def _list(folder: Path, as_json: bool) -> int:
    if not folder.is_dir():
        raise InvalidInput(f"{folder}: no such folder.")
    runs, problems = list_runs(folder)
    if as_json:
        print(json.dumps(runs, indent=1))
    elif runs:
        head = ["run", "status", "kind", "best on valid", "test", "seconds", "started"]
        print(_table([head, *map(_row, runs)]))
    else:
        print(f"{folder} has no runs yet")
    for problem in problems:
        print(f"runs: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _compare(options: argparse.Namespace) -> int:
    if len(options.runs) < 2:
        raise InvalidInput("comparing needs two runs or more.")
    paths = [Path(name) for name in options.runs]
    runs = [described(path if path.is_dir() else options.folder / path) for path in paths]
    different, measured = differences(runs), figures(runs)
    if options.json:
        print(json.dumps({"runs": runs, "differences": different, "figures": measured}, indent=1))
        return 0
    names = [run["name"] for run in runs]
    print(_table([["differs", *names], *_lines(different, _plain)]) if different else "nothing that counts differs")
    print()
    print(_table([["figure", *names], *_lines(measured, _short)]))
    return 0


def _row(run: Mapping[str, Any]) -> list[str]:
    best = run["best"]
    shown = [f"{name} {_short(run['test'][name])}" for name in SHOWN if name in run["test"]]
    return [
        Path(run["run"]).name,
        run["status"],
        run["kind"],
        f"{best['metric']} {_short(best['value'])}" if best else "–",
        "  ".join(shown) or "–",
        _short(run["seconds"]),
        run["started"][:16],
    ]


def _status(run: Path, record: TrainRecord) -> str:
    """As recorded; a run that is begun and that no process holds is stopped."""
    if record.status != "running":
        return record.status
    try:
        with (run / ".lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "running"
    except FileNotFoundError:  # a trial: its search holds the lock, and marks what it loses
        return "running"
    return "stopped"


def _lines(values: Mapping[str, Sequence[Any]], show: Callable[[Any], str]) -> list[list[str]]:
    return [[name, *map(show, each)] for name, each in values.items()]


def _short(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) and value < 100 else f"{value:.0f}"


def _plain(value: Any) -> str:
    text = "–" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"  # digests


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
