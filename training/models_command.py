"""`python -m training models`: what is published, what is in production, and moving between the two."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any, get_args

from runtime.errors import SluiceError
from runtime.manifest import Kind, verify
from runtime.store import STAGES, Entry, ModelStore, store_home

FOLLOWED = (
    "Servers that run on the store {home} look for this every second (SLUICE_FOLLOW_S), load it and switch; "
    "GET /v1/models tells."
)


def summary(entry: Entry) -> dict[str, Any]:
    """What a script needs to know of a published artifact."""
    manifest = entry.manifest
    return {
        "tag": entry.tag,
        "path": str(entry.path),
        "kind": manifest.kind,
        "precision": manifest.precision,
        "stage": ",".join(entry.stages) or None,
        "architecture": manifest.architecture,
        "digest": manifest.digest,
        "size_bytes": manifest.size_bytes,
        "max_tokens": manifest.max_tokens,
        "threshold": manifest.threshold,
        "dimensions": manifest.dimensions,
        "created": manifest.created.isoformat(),
        "steps": [step.model_dump(mode="json") for step in manifest.steps],
        "evaluations": [evaluation.model_dump(mode="json") for evaluation in manifest.evaluations],
    }


def _table(entries: list[Entry]) -> str:
    rows = [("TAG", "KIND", "PRECISION", "MB", "STAGE", "CREATED")]
    for entry in entries:
        manifest = entry.manifest
        size, created = f"{manifest.size_bytes / 1e6:.1f}", f"{manifest.created:%Y-%m-%d %H:%M}"
        rows.append((entry.tag, manifest.kind, manifest.precision, size, ",".join(entry.stages) or "-", created))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _details(entry: Entry, store: ModelStore) -> str:
    facts = summary(entry)
    lines = [f"{key:<13}{facts[key]}" for key in facts if key not in {"steps", "evaluations"}]
    for step in entry.manifest.steps:
        parity = f", {step.parity.metric} {step.parity.value:.3g}" if step.parity else ""
        quality = "".join(f", {name} {value:.4f}" for name, value in step.quality.items())
        lines.append(
            f"step         {step.name}: {step.size_bytes / 1e6:.1f} MB, p50 {step.latency_p50_ms} ms{parity}{quality}"
        )
    for evaluation in entry.manifest.evaluations:
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in evaluation.metrics.items())
        lines.append(f"evaluated    {evaluation.split} ({evaluation.rows} rows): {metrics}")
    lines += [
        f"history      {move.at:%Y-%m-%d %H:%M:%S} {move.stage} <- {move.tag} ({move.why})"
        for move in store.pointers(entry.name).history
    ]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """The command. Exit codes: 0 done, 1 refused as described, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m training models", description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    listing = actions.add_parser("list", help="every published artifact")
    listing.add_argument("name", nargs="?", help="only this name")
    for action, what in (
        ("show", "one artifact: steps, quality, history"),
        ("verify", "check every file against the manifest"),
        ("promote", "make a version production; who held it becomes previous"),
        ("rollback", "swap production and previous"),
    ):
        command = actions.add_parser(action, help=what)
        command.add_argument("reference", help="NAME, NAME:VERSION, NAME:STAGE, or a stage that one model holds")
        if action == "promote":
            command.add_argument("--stage", choices=STAGES, default="production")
        if action in {"promote", "rollback"}:
            command.add_argument("--why", help="kept in the history")
        else:
            command.add_argument("--kind", choices=get_args(Kind), help="settles a stage given alone")
    for command in actions.choices.values():
        command.add_argument("--json", action="store_true", help="for scripts")
    options = parser.parse_args(arguments)
    try:
        _run(options, ModelStore(store_home(os.environ)))
    except SluiceError as error:
        print(f"models: {error}", file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace, store: ModelStore) -> None:
    if options.action == "list":
        entries = store.entries(options.name)
        print(json.dumps([summary(entry) for entry in entries], indent=1) if options.json else _table(entries))
        return
    if options.action == "promote":
        entry = store.promote(options.reference, options.stage, options.why or "promoted")
        text = f"{entry.tag} is {options.stage} of {entry.name}"
    elif options.action == "rollback":
        entry = store.rollback(options.reference, options.why or "rolled back")
        text = f"{entry.tag} is production of {entry.name} again"
    else:
        entry = store.resolve(options.reference, options.kind)
        text = _details(entry, store)
        if options.action == "verify":
            manifest = verify(entry.path)
            text = f"{entry.tag}: {len(manifest.files)} files hold, digest {manifest.digest}"
    if options.action in {"promote", "rollback"}:
        text += f"\n{FOLLOWED.format(home=store.home)}"
    print(json.dumps(summary(entry), indent=1) if options.json else text)
