"""`python -m training explain RUN`: one HTML page that opens offline, and the same findings as JSON beside it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from records.document import DocumentError
from runtime.errors import SluiceError
from training.data.errors import DataError
from training.explain.contract import Costs
from training.explain.report import NAMES, explain, page, read_explanation
from training.explain.subject import CHECKPOINT, LoadedSubject, locate
from training.explain.words import LANGUAGES

PAGE = "explain.html"


def main(arguments: list[str]) -> int:
    """The command. Exit codes: 0 done, 1 data or artifact refused, 2 wrong usage or recipe, 130 stopped by Ctrl-C."""
    options = _parser().parse_intermixed_args(arguments)
    try:
        made = _repaint(options) if options.what.suffix == ".json" else _explain(options)
    except DocumentError as error:
        print(error, file=sys.stderr)
        return 2
    except (SluiceError, DataError, OSError) as error:
        print(f"explain: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; nothing was written", file=sys.stderr)
        return 130
    print(f"made: {', '.join(map(str, made))}")
    return 0


def _explain(options: argparse.Namespace) -> list[Path]:
    """Look at the model; write the page and the findings."""
    artifact, recipe, run = locate(options.what, options.recipe, options.overrides)
    subject = LoadedSubject(
        artifact,
        recipe,
        run=run,
        split=options.split,
        costs=Costs(options.cost_false_match, options.cost_missed),
        most_rows=options.rows,
        seconds=options.seconds,
        log=lambda line: print(line, file=sys.stderr, flush=True),
    )
    try:
        found = explain(subject, options.skip)
    finally:
        subject.close()
    html = page(found, options.lang).write(options.html or default_page(artifact, run))
    data = options.json or html.with_suffix(".json")
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return [html, data]


def _repaint(options: argparse.Namespace) -> list[Path]:
    """The page of findings that lie there, in another language say."""
    return [page(read_explanation(options.what), options.lang).write(options.html or options.what.with_suffix(".html"))]


def default_page(artifact: Path, run: Path | None) -> Path:
    """In the run folder; never in the artifact itself, which would no longer be whole."""
    name = PAGE if artifact.name == CHECKPOINT else f"explain-{artifact.name}.html"
    return (run or artifact.parent) / name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training explain", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "what",
        type=Path,
        help="a run folder (its checkpoint), an artifact, a recipe; or an explanation's JSON: its page",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="replace settings of the recipe")
    parser.add_argument("--recipe", type=Path, help="says where an artifact's data is; else its run does")
    parser.add_argument(
        "--split", choices=("valid", "test"), default="valid", help="default: valid, so test stays unseen"
    )
    parser.add_argument("--cost-false-match", type=_number, default=1.0, metavar="X", help="of a pair wrongly matched")
    parser.add_argument("--cost-missed", type=_number, default=1.0, metavar="X", help="of a match that is not found")
    parser.add_argument("--lang", choices=LANGUAGES, default="en", help="of the page's own words")
    parser.add_argument(
        "--rows", type=_count, default=4000, metavar="N", help="most rows of a split, drawn by the seed"
    )
    parser.add_argument("--seconds", type=_number, default=12.0, metavar="S", help="of measuring speed, an artifact")
    parser.add_argument("--skip", nargs="+", choices=NAMES, default=[], metavar="TOPIC", help=", ".join(NAMES))
    parser.add_argument("--html", type=Path, help="where the page goes; default RUN/explain.html")
    parser.add_argument("--json", type=Path, help="where the findings go; default beside the page")
    return parser


def _number(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 on")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 10:
        raise argparse.ArgumentTypeError(f"{text}: at least 10 rows are needed")
    return value
