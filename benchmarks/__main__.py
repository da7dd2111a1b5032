"""`python -m benchmarks [SECTION…]`: matching served beside the raw limit and beside peers, and how it behaves when
overloaded, abandoned or just started. Every section writes a file that describes itself; the bars are read from all
files there are, so a section can be run again alone.

The machine is whatever it is: rounds are interleaved, and ratios are what to read.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from benchmarks import readme
from benchmarks.bars import lines
from benchmarks.bench import Bench, say
from benchmarks.figures import PLOT, RESULTS, read_results, write_result
from benchmarks.sections import coldstart, disconnects, overload, peers, rerank, workers
from benchmarks.tables import TABLES
from benchmarks.texts import SAMPLES, read_pairs
from runtime.errors import SluiceError
from runtime.manifest import read_manifest
from runtime.store import ModelStore, store_home

SECTIONS: dict[str, ModuleType] = {
    "peers": peers,
    "rerank": rerank,
    "overload": overload,
    "disconnects": disconnects,
    "coldstart": coldstart,
    "workers": workers,
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    top.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; default: all")
    top.add_argument("--rounds", type=int, default=5)
    top.add_argument("--seconds", type=float, default=5.0, help="of each served row in each round")
    top.add_argument("--overload-seconds", type=float, default=60.0)
    top.add_argument("--starts", type=int, default=7, help="of the cold start")
    top.add_argument("--texts", type=Path, action="append", help="JSONL of text_a, text_b; default: the samples")
    top.add_argument("--model", default="matching:production", help="the int8 model, in the store")
    top.add_argument("--run", type=Path, default=Path("runs/matching"), help="its training run: checkpoint/, fp32/")
    top.add_argument("--out", type=Path, default=RESULTS, help="where the result files go")
    return top


def open_bench(options: argparse.Namespace, scratch: Path) -> Bench:
    """Model and texts. Raises SluiceError, OSError or ValueError when one is not there."""
    entry = ModelStore(store_home(os.environ)).resolve(options.model, "matching")
    fp32 = options.run / "fp32"
    if needs_run(options.sections) and entry.manifest.parent != read_manifest(fp32).digest:
        raise ValueError(f"{entry.tag} was not made from {fp32}; name its training run with --run.")
    pairs = read_pairs(options.texts or SAMPLES)
    return Bench(
        artifact=entry.path,
        tag=entry.tag,
        run=options.run,
        pairs=pairs,
        rounds=options.rounds,
        seconds=options.seconds,
        overload_s=options.overload_seconds,
        starts=options.starts,
        scratch=scratch,
    )


def needs_run(sections: Sequence[str]) -> bool:
    """Whether the fp32 artifact and the checkpoint are used."""
    return "peers" in sections


def run(section: str, bench: Bench, options: argparse.Namespace, command: str) -> bool:
    """Measure one section and write its file; False, with a line that says why, when it could not be measured."""
    begun = time.monotonic()
    try:
        measured = SECTIONS[section].measure(bench)
    except Exception as error:  # whatever it was, the other sections are still worth their time
        say(f"{section} could not be measured: {type(error).__name__}: {error}")
        return False
    texts = {"files": [str(path) for path in options.texts or SAMPLES], "distinct_pairs": len(bench.pairs)}
    took = {"model": bench.tag, "texts": texts, "took_s": round(time.monotonic() - begun)}
    say(f"{section}: {write_result(section, command, took | measured, options.out)}, {took['took_s']} s")
    return True


def show_bars(out: Path) -> None:
    """The bars of all result files, as text."""
    found = lines(read_results(out, list(TABLES)))
    width = max(len(line.figure) for line in found)
    for line in found:
        met = {True: "met", False: "NOT MET", None: ""}[line.met]
        print(f"{line.figure:<{width}}  {line.bar:<36}{met:<9}{line.measured}")


def main(arguments: list[str]) -> int:
    """Exit codes: 0 measured (met or not), 1 a section could not be measured, 2 wrong usage."""
    options = parser().parse_args(arguments)
    options.sections = options.sections or list(SECTIONS)
    unknown = [section for section in options.sections if section not in SECTIONS]
    if unknown:
        parser().error(f"{unknown[0]!r} is not a section; there are {', '.join(SECTIONS)}.")
    command = shlex.join(["python", "-m", "benchmarks", *arguments])
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        try:
            bench = open_bench(options, Path(scratch))
        except (SluiceError, OSError, ValueError) as error:
            print(f"benchmarks: {error}", file=sys.stderr)
            return 1
        estimates = {section: SECTIONS[section].estimate_s(bench) for section in options.sections}
        told = ", ".join(f"{section} {seconds / 60:.0f}" for section, seconds in estimates.items())
        say(f"about {sum(estimates.values()) / 60:.0f} minutes in all ({told}), without installing peers")
        whole = [run(section, bench, options, command) for section in options.sections]
    results = read_results(options.out, list(TABLES))
    if "peers" in results:
        from benchmarks.plot import plot_peers  # matplotlib is slow to import

        plot_peers(results["peers"], options.out / PLOT)
    if options.out == RESULTS:
        readme.write()
    show_bars(options.out)
    return 0 if all(whole) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
