"""`python -m training tune CONFIG [key=value …]`: search the recipe's `tune.space` for what trains best -> best.yaml.

Started again, it goes on where it was: after Ctrl-C, after a kill, or with a larger budget. The best settings are
written as a recipe that `train` takes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from records.document import DocumentError, check_document, read_document
from runtime.errors import InvalidInput, SluiceError
from training.data.errors import DataError
from training.recipe import Recipe
from training.tuning.settings import PRUNERS, SAMPLERS, Tune

if TYPE_CHECKING:
    from training.tuning.search import Search


def main(arguments: list[str]) -> int:
    """The command. Exit codes: 0 a best recipe is written, 1 refused or failed, 2 wrong usage, recipe or space, 130
    stopped."""
    parser = argparse.ArgumentParser(prog="python -m training tune", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", type=Path, help="recipe (YAML) with a tune section")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="replace settings of the recipe")
    parser.add_argument("--fresh", action="store_true", help="throw away what was searched so far")
    parser.add_argument(
        "--compare",
        metavar="METHOD,…",
        help=f"search once with each, on the same budget: {', '.join(SAMPLERS)}, each also as METHOD+hyperband or "
        "METHOD+median",
    )
    parser.add_argument("--json", action="store_true", help="print report.json of each search, and else nothing")
    options = parser.parse_intermixed_args(arguments)
    try:
        recipe = read_document(options.config, Recipe, options.overrides)
        if recipe.tune is None:
            raise DocumentError(f"{options.config} has no tune section; docs/tuning.md shows one.")
        methods = [_method(recipe.tune, text) for text in options.compare.split(",")] if options.compare else []
        return _tune(recipe, methods or [recipe.tune], options)
    except DocumentError as error:
        print(error, file=sys.stderr)
        return 2


def _tune(recipe: Recipe, methods: list[Tune], options: argparse.Namespace) -> int:
    from training.progress import quiet_libraries
    from training.run_folder import RunRefused
    from training.tuning.report import summary

    quiet_libraries()
    try:
        # What a script reads comes alone; how the search goes is for people.
        with contextlib.redirect_stdout(sys.stderr if options.json else sys.stdout):
            done = _searches(recipe, methods, fresh=options.fresh, compare=bool(options.compare))
    except (SluiceError, DataError, RunRefused, InvalidInput) as error:
        print(f"tune: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on with the search", file=sys.stderr)
        return 130
    if options.json:
        print(json.dumps([summary(each) for each in done], indent=1))
    for each in done:
        best = each.study.best
        if best is None or each.best is None:
            print(f"tune: {each.folder}: no trial was trained to its end; raise the budget.", file=sys.stderr)
            return 1
        if not options.json:
            print(f"{each.study.tune.method}: best {each.figure} {best.value:.4f} of trial {best.number}: {each.best}")
    return 0


def _searches(recipe: Recipe, methods: list[Tune], *, fresh: bool, compare: bool) -> list[Search]:
    """One search a method, each with its report; at the end the comparison."""
    from training.run_folder import locked
    from training.tuning.report import write_comparison, write_report
    from training.tuning.search import search

    folder = recipe.run / "tune"
    folder.mkdir(parents=True, exist_ok=True)
    done = []
    with locked(folder):
        for tune in methods:
            print(f"tuning {recipe.name} by {tune.method} in {folder / tune.method}", flush=True)
            done.append(search(recipe, tune, fresh=fresh))
            print(f"report: {write_report(done[-1], recipe.name)}", flush=True)
        if compare:
            print(f"comparison: {write_comparison(done, folder, recipe.name)}")
    return done


def _method(tune: Tune, text: str) -> Tune:
    """`tune` with another sampler and pruner, as in `tpe+hyperband`. Raises DocumentError."""
    sampler, plus, pruner = text.strip().partition("+")
    pruner = pruner if plus else "none"
    if sampler not in SAMPLERS or pruner not in PRUNERS:
        raise DocumentError(
            f"--compare {text!r}: write a sampler ({', '.join(SAMPLERS)}) and, if wanted, +hyperband or +median."
        )
    raw = tune.model_dump() | {"sampler": sampler, "pruner": pruner}
    return check_document(raw, Tune, "tune")
