"""`python -m training review RECIPE`: which samples are wrong, repeated, contradictory or out of place -> a sheet.

review RECIPE               RUN/review/review.csv (a person decides), review.json, review.html
review apply RECIPE SHEET   the next version of the data set, from the decisions
review effect RECIPE DIR    the recipe trained before and after, over seeds
review planted RECIPE       errors planted on purpose: how many are found, what correcting them is worth
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from records.document import DocumentError, read_document
from runtime.errors import InvalidInput, SluiceError
from training.data.errors import DataError
from training.data.splits import PairSplits, load_splits
from training.recipe import PairData, Recipe
from training.review.findings import FOLDER, PAGE_FILE, REPORT_FILE, SHEET_FILE, Review
from training.review.sheet import read_sheet, write_sheet
from training.review.version import MANIFEST_FILE, RECIPE_FILE, accept, apply

DEFAULT_ENCODER = "packaged:minilm"


def main(arguments: list[str]) -> int:
    """The command. Exit codes: 0 done, 1 data, sheet or artifact refused, 2 wrong usage or recipe, 130 stopped."""
    actions: dict[str, Callable[[list[str]], int]] = {
        "apply": _apply,
        "effect": _effect,
        "planted": _planted,
    }
    action = actions.get(arguments[0]) if arguments else None
    try:
        return action(arguments[1:]) if action else _review(arguments)
    except DocumentError as error:
        print(error, file=sys.stderr)
        return 2
    except (SluiceError, DataError) as error:
        print(f"review: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; what was computed whole is kept", file=sys.stderr)
        return 130


def _parser(action: str, what: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m training review{action}",
        description=what,
        epilog=None if action else (__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, help="recipe for labelled pairs (YAML)")
    return parser


def _overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="replace settings of the recipe")


def _encoder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--encoder",
        help="whose vectors tell what is alike: packaged:minilm or a transformers folder, in the language of the texts "
        "and not trained on these labels; default: the recipe's base, or packaged:minilm",
    )


def _review(arguments: list[str]) -> int:
    parser = _parser("", (__doc__ or "").splitlines()[0])
    _overrides(parser)
    _encoder(parser)
    parser.add_argument("--json", action="store_true", help="print the findings as one JSON document")
    options = parser.parse_intermixed_args(arguments)
    recipe, data, splits = _read(options.config, options.overrides)
    encoder = _resolve(recipe, options.encoder)
    from training.progress import quiet_libraries
    from training.review.search import review

    quiet_libraries()
    folder = recipe.run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    try:
        found = review(splits, data.labels, encoder, folder, recipe.seed, _log)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{encoder[0]} is no encoder that can be used: {error}") from None
    _write(found, recipe, folder)
    if options.json:
        print(found.model_dump_json(indent=1))
    else:
        _tell(found, folder, options.config)
    return 0


def _apply(arguments: list[str]) -> int:
    parser = _parser(" apply", "Make the next version of the data set from the decisions in a review file.")
    parser.add_argument("sheet", type=Path, help="the filled-in review file (CSV, TSV, JSONL)")
    _overrides(parser)
    parser.add_argument("--out", type=Path, help="folder of the new version; default: RUN/versions/DIGEST")
    parser.add_argument(
        "--accept",
        type=_positive,
        default=0.0,
        metavar="N|SHARE",
        help="take the suggested label of so many of train's most suspicious rows that nobody decided on, or of such a "
        "share of its rows; marked as decided by rank",
    )
    options = parser.parse_intermixed_args(arguments)
    recipe, data, splits = _read(options.config, options.overrides)
    lines = read_sheet(options.sheet, data.labels)
    count = options.accept if options.accept >= 1 else options.accept * len(splits.train)
    folder, version, new = apply(recipe, splits, lines, accept(lines, round(count)), options.sheet, options.out)
    by_person = len(version.decisions) - version.accepted
    dropped = sum(decision.after is None for decision in version.decisions)
    print(f"{'made' if new else 'nothing to do, there already'}: {folder}")
    changed = f"{len(version.decisions) - dropped} labels changed, {dropped} rows dropped"
    print(f"  decided: {by_person} rows by a person, {version.accepted} by rank; {changed}; {len(version.kept)} kept")
    for split, change in version.splits.items():
        rows = f"{change.rows_before} -> {change.rows_after} rows"
        print(f"  {split:<5} {rows}, sha256 {change.sha256_before[:12]} -> {change.sha256_after[:12]}")
    print(f"  every decision: {folder / MANIFEST_FILE}")
    print(f"next: python -m training train {folder / RECIPE_FILE}")
    return 0


def _effect(arguments: list[str]) -> int:
    parser = _parser(" effect", "Train the recipe on the data before and after a correction, over seeds, and compare.")
    parser.add_argument("version", type=Path, help="folder that `review apply` made")
    _overrides(parser)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_intermixed_args(arguments)
    if options.seeds < 1:
        parser.error("--seeds must be at least 1")
    recipe, _, _ = _read(options.config, options.overrides)
    from training.progress import Diverged, quiet_libraries
    from training.review.effect import EFFECT_FILE, measure_effect
    from training.train import RunRefused

    quiet_libraries()
    try:
        gains = measure_effect(recipe, options.version, options.seeds)
    except (RunRefused, Diverged, ValueError) as error:
        raise InvalidInput(str(error)) from None
    document = {"seeds": options.seeds, "metrics": {metric: each.model_dump() for metric, each in gains.items()}}
    (options.version / EFFECT_FILE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for metric, each in gains.items():
        print(f"{metric}: {each.before} -> {each.after}, difference {each.difference}")
    print(f"mean of {options.seeds} seeds, 95 % intervals; {options.version / EFFECT_FILE}")
    return 0


def _planted(arguments: list[str]) -> int:
    parser = _parser(" planted", "Plant label errors, look for them, and measure what correcting them is worth.")
    _overrides(parser)
    _encoder(parser)
    parser.add_argument("--share", type=float, default=0.05, help="of train's labels to change (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="times to do it (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="file for the figures (JSON); default: RUN/review/planted.json")
    options = parser.parse_intermixed_args(arguments)
    if not 0 < options.share < 0.5 or options.seeds < 1:
        parser.error("--share must be above 0 and below 0.5, --seeds at least 1")
    recipe, data, splits = _read(options.config, options.overrides)
    encoder = _resolve(recipe, options.encoder)
    from training.progress import quiet_libraries
    from training.review.describe import described
    from training.review.planted import measure_planted

    quiet_libraries()
    folder = recipe.run / FOLDER
    measured = measure_planted(splits, data.labels, encoder[1], folder, options.share, range(options.seeds), _log)
    path = options.out or folder / "planted.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "-m", "training", "review", "planted", *arguments])
    document = described(command, {split: splits.sha256(split) for split in ("train", "valid", "test")}, measured)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for each in measured.seeds:
        print(f"seed {each.seed}: {each.recall:.1%} of {each.planted} found among as many rows, {each.seconds:.0f} s")
    for name in ("corrected", "accepted", "clean"):
        for metric, each in getattr(measured, name).items():
            print(f"{name:<9} {metric:<7} {each.before} -> {each.after}, difference {each.difference}")
    print(f"made: {path}")
    return 0


def _read(config: Path, overrides: Sequence[str]) -> tuple[Recipe, PairData, PairSplits]:
    recipe = read_document(config, Recipe, overrides)
    splits = load_splits(recipe)
    if not isinstance(recipe.data, PairData) or not isinstance(splits, PairSplits):
        raise InvalidInput(f"{config} is for {recipe.model.kind}; only labelled pairs can be reviewed.")
    return recipe, recipe.data, splits


def _resolve(recipe: Recipe, given: str | None) -> tuple[str, Path]:
    """Name and folder of the encoder."""
    from training.bases import resolve_base

    base = None if given else getattr(recipe.model, "base", None)
    name = given or base or DEFAULT_ENCODER
    return name, resolve_base(name, recipe.model.revision if base else None)


def _write(found: Review, recipe: Recipe, folder: Path) -> None:
    from training.pages.page import Page
    from training.review.section import show

    # A sheet that a person has begun to fill in is not lost to a second review.
    sheet, kept = folder / SHEET_FILE, folder / f"{SHEET_FILE}.before"
    if sheet.is_file():
        sheet.replace(kept)
    (folder / REPORT_FILE).write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
    write_sheet(found, sheet)
    page = Page(f"Samples of {recipe.name}", f"{sum(found.rows.values())} rows, {len(found.suspects)} worth a look")
    show(page.section("Sample errors"), found)
    page.write(folder / PAGE_FILE)


def _tell(found: Review, folder: Path, config: Path) -> None:
    splits = list(found.rows)
    print(f"{'finding':<14}" + "".join(f"{split:>8}" for split in splits))
    for kind, counts in found.counts().items():
        print(f"{kind:<14}" + "".join(f"{counts[split]:>8}" for split in splits))
    errors = ", ".join(f"{count} in {split}" for split, count in found.counted_errors.items())
    print(f"label errors by cleanlab's count: {errors}")
    for suspect in found.suspects[:5]:
        print(f"  {suspect.row:<12} {suspect.label} -> {suspect.suggested or '?'}  {suspect.text_a} | {suspect.text_b}")
    print(f"sheet: {folder / SHEET_FILE}   page: {folder / PAGE_FILE}")
    print(f"next: fill in `decision`, then python -m training review apply {config} {folder / SHEET_FILE}")


def _positive(text: str) -> float:
    value = float(text)
    if value <= 0 or (value >= 1 and not value.is_integer()):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a count from 1 nor a share below 1")
    return value


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
