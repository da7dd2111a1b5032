"""`python -m training compress CONFIG|FOLDER`: a checkpoint -> smaller and faster artifacts, each checked and measured.

With `--goal` or `--search` it tries step lists and writes front.json and front.html (training/compression/search.py).

Without `compress.steps`: fp32 ONNX, then fp16 for GPUs, int8 and int4 for CPUs from it. A step is refused when its
output is further from its parent's than the recipe allows. What it cost and gained (size, latency, memory, quality)
goes into the manifest of the artifact it made.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from models.bi_encoder import read_head
from records.document import DocumentError, read_document
from runtime.errors import InvalidInput, SluiceError
from runtime.manifest import Manifest
from training.checkpoint import adopt_folder
from training.compression.artifact import describe, make_artifact, making
from training.compression.export import Export
from training.compression.fp16 import Fp16
from training.compression.goal import parse_goal
from training.compression.int4 import Int4
from training.compression.int8 import Int8
from training.compression.pipeline import Pipeline, folder_context, place_result, recipe_context
from training.compression.probe import sampled_probe
from training.compression.settings import Compress
from training.compression.step import COMPRESSED, Context, Step
from training.data.errors import DataError
from training.recipe import Recipe


def compress_recipe(recipe: Recipe, log: Callable[[str], None]) -> dict[str, Path]:
    """Run the recipe's steps on its checkpoint; returns precision -> artifact directory."""
    context = recipe_context(recipe, log)
    if not recipe.compress.steps:
        return _precisions(recipe.run, recipe.compress, context)
    last = Pipeline(recipe.run / COMPRESSED, context).run(recipe.compress.steps)[-1]
    result = place_result(last, recipe.run)
    return {result.name: result}


def compress_folder(
    folder: Path, run: Path, settings: Compress, log: Callable[[str], None], **adopted: Any
) -> dict[str, Path]:
    """A transformers or sentence-transformers folder -> `run`/checkpoint, then one artifact a precision, judged without
    data.

    `adopted`: for `adopt_folder`. Raises InvalidInput: a folder that is not supported, or a checkpoint that is there.
    """
    checkpoint = run / "checkpoint"
    if checkpoint.exists():
        raise InvalidInput(f"{checkpoint} is there already; choose another place with --run, or remove {run}.")
    with making(checkpoint) as directory:
        manifest = adopt_folder(folder, directory, **adopted)
    log(f"{folder}: {_summary(manifest, checkpoint)}")
    return _precisions(run, settings, folder_context(checkpoint, log))


def _precisions(run: Path, settings: Compress, context: Context) -> dict[str, Path]:
    """RUN/fp32 from the checkpoint, the others from that."""
    made = {"fp32": run / "fp32"}

    def make(step: Step, source: Path, context: Context) -> None:
        context.log(describe(make_artifact(step, source, made[step.precision or "fp32"], context)))

    make(Export(tolerance=settings.fp32_tolerance), context.checkpoint, context)
    if "fp16" in settings.precisions:
        made["fp16"] = run / "fp16"
        make(Fp16(tolerance=settings.fp16_tolerance), made["fp32"], context)
    narrow = {"int8": Int8(tolerance=settings.int8_tolerance), "int4": Int4(tolerance=settings.int4_tolerance)}
    for precision in (each for each in narrow if each in settings.precisions):
        made[precision] = run / precision
        if context.splits is None and context.probe.timed is None:
            # A language model without data: perplexity on random tokens would say nothing of its quality.
            context = replace(context, probe=sampled_probe(made["fp32"], context.probe.texts))
        make(narrow[precision], made["fp32"], context)
    return made


def _summary(manifest: Manifest, checkpoint: Path) -> str:
    text = f"{manifest.kind}, {manifest.architecture}, at most {manifest.max_tokens} tokens"
    if manifest.kind == "embedding":
        text += f", pooling {' and '.join(read_head(checkpoint).poolings)}, {manifest.dimensions} dimensions"
    return text


def main(arguments: list[str]) -> int:
    """The command. Exit codes: 0 done, 1 a step was refused or has no input, 2 wrong usage or recipe."""
    parser = argparse.ArgumentParser(prog="python -m training compress", description=__doc__.splitlines()[0])
    parser.add_argument("what", type=Path, help="recipe (YAML), or a transformers or sentence-transformers folder")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="replace settings of the recipe")
    parser.add_argument("--run", type=Path, help="of a folder: where its artifacts go; default runs/NAME-OF-THE-FOLDER")
    parser.add_argument("--goal", help='search the steps that reach it: "f1 >= 0.98 teacher, smallest p50"')
    parser.add_argument("--search", action="store_true", help="make every candidate, whatever a goal leaves out")
    parser.add_argument("--seeds", type=int, nargs="+", help="search the runs NAME-SEED together")
    parser.add_argument("--test", action="store_true", help="of a search: evaluate its front on test, at the end")
    options = parser.parse_intermixed_args(arguments)
    searching = options.goal is not None or options.search
    if (options.seeds or options.test) and not searching:
        parser.error("--seeds and --test are for a search: add --goal or --search")
    try:
        if searching:
            return _search(options, " ".join(["python -m training compress", *map(shlex.quote, arguments)]))
        made = _compress(options.what, options.overrides, options.run)
    except DocumentError as error:
        print(error, file=sys.stderr)
        return 2
    except (SluiceError, DataError, ValueError) as error:
        print(f"compress: {error}", file=sys.stderr)
        return 1
    print("made: " + ", ".join(f"{precision} {path}" for precision, path in made.items()))
    return 0


def _compress(what: Path, overrides: list[str], run: Path | None) -> dict[str, Path]:
    def log(line: str) -> None:
        print(line, flush=True)

    if what.is_dir():
        if overrides:
            raise InvalidInput(f"Overrides ({', '.join(overrides)}) need a recipe to apply to; {what} is a folder.")
        return compress_folder(what, run or Path("runs") / what.absolute().name, Compress(), log)
    if run:
        raise InvalidInput(f"--run is for a folder; {what} says where its run lies.")
    return compress_recipe(read_document(what, Recipe, overrides), log)


def _search(options: argparse.Namespace, command: str) -> int:
    """Exit codes: 0 done, 1 no candidate meets the goal."""
    from training.compression.search_command import search

    if options.what.is_dir() or options.run:
        raise InvalidInput(f"A search needs data to judge by: give a recipe, not the folder {options.what}.")
    goal = parse_goal(options.goal) if options.goal else None
    recipe = read_document(options.what, Recipe, options.overrides)
    return search(recipe, goal, options.seeds or (), whole=options.search, test=options.test, command=command)
