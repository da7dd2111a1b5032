"""`python -m benchmarks [SECTION…]`: matching and generation served beside their raw limits and beside peers, and how
they behave when overloaded, abandoned or just started. Every section writes a file that describes itself; the bars are
read from all files there are, so a section can be run again alone.

The machine is whatever it is: rounds are interleaved, and ratios are what to read.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from benchmarks import readme
from benchmarks.bar import Results, lines
from benchmarks.bars import BARS
from benchmarks.bench import Bench, say
from benchmarks.figures import RESULTS, read_results, write_result
from benchmarks.generation.bench import GenerationBench
from benchmarks.generation.models import Models
from benchmarks.generation.prompts import Prompts
from benchmarks.generation.sections import arrivals, decode, goodput, precision, prefix
from benchmarks.generation.sections import overload as generation_overload
from benchmarks.sections import coldstart, disconnects, overload, peers, rerank, workers
from benchmarks.tables import TABLES
from benchmarks.texts import SAMPLES, read_pairs
from demo.commands import StepFailed
from runtime.errors import SluiceError
from runtime.manifest import read_manifest
from runtime.store import ModelStore, store_home

MATCHING: dict[str, ModuleType] = {
    "peers": peers,
    "rerank": rerank,
    "overload": overload,
    "disconnects": disconnects,
    "coldstart": coldstart,
    "workers": workers,
}
GENERATION: dict[str, ModuleType] = {
    "decode": decode,
    "arrivals": arrivals,
    "goodput": goodput,
    "precision": precision,
    "prefix": prefix,
    "generation-overload": generation_overload,
}
SECTIONS = MATCHING | GENERATION
GROUPS = {"matching": MATCHING, "generation": GENERATION}
MATCHING_ROUNDS, GENERATION_ROUNDS = 5, 3


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    top.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"of {', '.join((*GROUPS, *SECTIONS))}; default: all"
    )
    top.add_argument("--rounds", type=int, help="default: 5 of matching, 3 of generation")
    top.add_argument("--seconds", type=float, default=5.0, help="of each served row in each round")
    top.add_argument("--overload-seconds", type=float, default=60.0)
    top.add_argument("--starts", type=int, default=7, help="of the cold start")
    top.add_argument("--texts", type=Path, action="append", help="JSONL of text_a, text_b; default: the samples")
    top.add_argument("--model", default="matching:production", help="the int8 model, in the store")
    top.add_argument("--run", type=Path, default=Path("runs/matching"), help="its training run: checkpoint/, fp32/")
    top.add_argument("--generation-models", type=Path, default=Path("runs/bench-generation"), help="made when missing")
    top.add_argument("--generation-shape", default="", help="options of benchmarks.generation.random_weights")
    top.add_argument("--generation-architectures", default="gpt2,llama", help="the first is in all sections")
    top.add_argument("--no-peers", action="store_true", help="generation beside its raw loop alone")
    top.add_argument(
        "--generation-run", type=Path, default=Path("runs/generation"), help="the trained model's: fp32/, int8/"
    )
    top.add_argument("--out", type=Path, default=RESULTS, help="where the result files go")
    return top


def open_benches(options: argparse.Namespace, scratch: Path) -> dict[str, Bench | GenerationBench]:
    """Section -> what it is given. Raises SluiceError, StepFailed, OSError or ValueError when that is not there."""
    openers = {"matching": open_matching, "generation": open_generation}
    found: dict[str, Bench | GenerationBench] = {}
    for name, group in GROUPS.items():
        if wanted := [section for section in options.sections if section in group]:
            found |= dict.fromkeys(wanted, openers[name](options, scratch))
    return found


def open_matching(options: argparse.Namespace, scratch: Path) -> Bench:
    """Model and texts."""
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
        rounds=options.rounds or MATCHING_ROUNDS,
        seconds=options.seconds,
        overload_s=options.overload_seconds,
        starts=options.starts,
        scratch=scratch,
        files=tuple(options.texts or SAMPLES),
    )


def open_generation(options: argparse.Namespace, scratch: Path) -> GenerationBench:
    """Models, which are made first where they are missing, and prompts."""
    names = tuple(options.generation_architectures.split(","))
    models = Models(options.generation_models, names, tuple(shlex.split(options.generation_shape)))
    models.make()
    return GenerationBench(
        models=models,
        trained=options.generation_run,
        prompts=Prompts(models.folder(models.names[0]) / "tokenizer.json"),
        rounds=options.rounds or GENERATION_ROUNDS,
        seconds=options.seconds,
        overload_s=options.overload_seconds,
        peers=not options.no_peers,
        scratch=scratch,
    )


def needs_run(sections: Sequence[str]) -> bool:
    """Whether the fp32 artifact and the checkpoint are used."""
    return "peers" in sections


def run(section: str, bench: Bench | GenerationBench, options: argparse.Namespace, command: str) -> bool:
    """Measure one section and write its file; False, with a line that says why, when it could not be measured."""
    begun = time.monotonic()
    try:
        measured = SECTIONS[section].measure(bench)
    except Exception as error:  # whatever it was, the other sections are still worth their time
        say(f"{section} could not be measured: {type(error).__name__}: {error}")
        return False
    took = {**bench.source(), "took_s": round(time.monotonic() - begun)}
    say(f"{section}: {write_result(section, command, took | measured, options.out)}, {took['took_s']} s")
    return True


def draw(results: Results, out: Path) -> None:
    """The pictures of what there is."""
    from benchmarks.plot import PLOTS  # matplotlib is slow to import

    for section, (name, plot) in PLOTS.items():
        if section in results:
            plot(results[section], out / name)


def show_bars(out: Path) -> None:
    """The bars of all result files, as text."""
    found = lines(read_results(out, list(TABLES)), BARS)
    width = max(len(line.figure) for line in found)
    for line in found:
        met = {True: "met", False: "NOT MET", None: ""}[line.met]
        print(f"{line.figure:<{width}}  {line.bar:<36}{met:<9}{line.measured}")


def main(arguments: list[str]) -> int:
    """Exit codes: 0 measured (met or not), 1 a section could not be measured, 2 wrong usage."""
    options = parser().parse_args(arguments)
    named = options.sections or list(GROUPS)
    unknown = [name for name in named if name not in SECTIONS and name not in GROUPS]
    if unknown:
        parser().error(f"{unknown[0]!r} is not a section; there are {', '.join((*GROUPS, *SECTIONS))}.")
    options.sections = [section for name in named for section in GROUPS.get(name, [name])]
    command = shlex.join(["python", "-m", "benchmarks", *arguments])
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        try:
            benches = open_benches(options, Path(scratch))
        except (SluiceError, StepFailed, OSError, ValueError) as error:
            print(f"benchmarks: {error}", file=sys.stderr)
            return 1
        estimates = {section: SECTIONS[section].estimate_s(benches[section]) for section in options.sections}
        told = ", ".join(f"{section} {seconds / 60:.0f}" for section, seconds in estimates.items())
        say(f"about {sum(estimates.values()) / 60:.0f} minutes in all ({told}), without installing peers")
        whole = [run(section, benches[section], options, command) for section in options.sections]
    results = read_results(options.out, list(TABLES))
    draw(results, options.out)
    if options.out == RESULTS:
        readme.write()
    show_bars(options.out)
    return 0 if all(whole) else 1


if __name__ == "__main__":
    # Whoever ends the run ends its servers with it: most of them are stopped and would stay for ever.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:]))
