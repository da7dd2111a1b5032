"""`python -m demo`: everything once. `python -m demo models`: only the models, published and promoted."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

from demo.commands import StepFailed
from demo.journey import batch_over_s3, serve_call_and_load
from demo.models import NAMES, make, published
from demo.table import Row, render, write

REPORT = Path("reports/demo/demo.json")


def steps(only_models: bool, if_missing: bool) -> Iterator[Row]:
    """Each step's row as it ends."""
    for name in NAMES:
        if not (if_missing and published(name)):
            yield from make(name)
    if not only_models:
        yield from serve_call_and_load()
        yield from batch_over_s3()


def main(arguments: list[str]) -> int:
    """Exit codes: 0 everything went well, 1 a step failed, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("part", nargs="?", choices=["all", "models"], default="all")
    parser.add_argument("--if-missing", action="store_true", help="make only models that have no production version")
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    begun = monotonic()
    try:
        for row in steps(options.part == "models", options.if_missing):
            rows.append(row)
            print(f"[{monotonic() - begun:4.0f} s] {row.step}: {row.result}\n", flush=True)
    except StepFailed as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted; run it again to go on where it was.", file=sys.stderr)
        return 130
    if rows:
        print(render(rows))
    if options.part == "all":
        write(rows, REPORT)
        print(f"\n{monotonic() - begun:.0f} s in all. Everything that was started is stopped. Figures: {REPORT}")
        print("Next: `make serve`, then open http://127.0.0.1:3000")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
