"""`python -m training evaluate CONFIG|ARTIFACT`: an artifact's quality, measured through the engine that serves it.

Whatever the artifact's format, texts go the way of a request (tokenise, pack, backend, score), on the very files that
the manifest lists; the result is written into that manifest.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from tqdm import tqdm

from records.document import DocumentError, read_document
from runtime.contract import Pair
from runtime.embedding import EmbeddingEngine
from runtime.encoder import EncoderEngine
from runtime.errors import InvalidInput, SluiceError
from runtime.generation import GenerationEngine
from runtime.load import load_engine
from runtime.manifest import Evaluation, Manifest, Precision, read_manifest, replace_manifest
from training.data.errors import DataError
from training.data.pairs import LabelledPair
from training.data.splits import ExampleSplits, PairSplits, Splits, load_splits
from training.data.texts import TextSplits
from training.example_quality import evaluate_examples
from training.metrics import best_threshold, matching_metrics
from training.recipe import Recipe

Engine = EncoderEngine | GenerationEngine
# In the order in which they are made.
ARTIFACTS = ("checkpoint", *get_args(Precision))


def score_pairs(engine: EncoderEngine, pairs: Sequence[Pair]) -> list[float]:
    """Scores in order. Raises the first error that an item has."""
    with tqdm(total=len(pairs), desc="score", unit="pair", disable=not sys.stderr.isatty(), leave=False) as bar:
        results = engine.score(pairs, progress=bar.update)
    scores = []
    for result in results:
        if isinstance(result, SluiceError):
            raise result
        scores.append(result.score)
    return scores


def evaluate_matching(engine: EncoderEngine, pairs: Sequence[Pair], labels: Sequence[int]) -> dict[str, float]:
    """accuracy, precision, recall, f1 at the artifact's threshold (0.5 where it has none), roc_auc, average_precision.

    `labels`: 1 where a pair has the positive label. Raises InvalidInput when all labels are the same.
    """
    threshold = engine.manifest.threshold
    try:
        return matching_metrics(score_pairs(engine, pairs), labels, 0.5 if threshold is None else threshold)
    except ValueError as error:
        raise InvalidInput(str(error)) from None


def evaluate_generation(engine: GenerationEngine, text: str) -> dict[str, float]:
    """perplexity per token, bits_per_byte, and how many tokens and bytes that is over.

    With a sliding context: windows of the artifact's max_tokens advance by half of it, and a token is scored in the
    window where it has the most before it, hence with at least half of the context, but at the text's beginning. That
    is preceded by the model's begin (or end) token where it has one, so that the first token is scored too; without
    one it is not. Perplexities of different tokenizers do not compare; bits per byte do.
    Raises InvalidInput: a text of fewer than two tokens.
    """
    ids = _with_begin(engine, engine.encode(text))
    if len(ids) < 2:
        raise InvalidInput("The text has fewer than two tokens; nothing can be predicted.")
    size = engine.context
    stride = max(size // 2, 1)
    nats, counted = 0.0, 1  # ids[0] is never predicted
    windows = range(0, max(len(ids) - size, 0) + stride, stride)
    bar = tqdm(windows, desc="score", unit="window", disable=not sys.stderr.isatty(), leave=False)
    for start in bar:
        window = ids[start : start + size]
        log_probs = engine.log_probs(window)  # of window[1:]
        fresh = start + len(window) - counted  # tokens that no window before has scored
        nats -= math.fsum(log_probs[len(log_probs) - fresh :]) if fresh > 0 else 0.0
        counted += max(fresh, 0)
    tokens = counted - 1
    size_bytes = len(text.encode())
    return {
        "perplexity": math.exp(nats / tokens),
        "bits_per_byte": nats / math.log(2) / size_bytes,
        "tokens": float(tokens),
        "bytes": float(size_bytes),
    }


def _with_begin(engine: GenerationEngine, ids: list[int]) -> list[int]:
    shape = engine.manifest.causal
    assert shape is not None  # every generation artifact has one
    starts = [shape.bos_token_id, *shape.eos_token_ids]
    begin = next((token for token in starts if token is not None), None)
    return ids if begin is None or ids[:1] == [begin] else [begin, *ids]


def evaluate_split(engine: Engine, splits: Splits, split: str) -> Evaluation:
    """Metrics of one split of a recipe's data: pairs for a cross-encoder or a bi-encoder, texts for generation, sources
    and targets where that has a source.

    Raises InvalidInput when the data is of another kind.
    """
    if isinstance(engine, EncoderEngine) and isinstance(splits, PairSplits):
        rows = splits.rows(split)
        metrics = evaluate_matching(engine, *as_pairs(rows, splits.positive))
        return _evaluation(split, splits.sha256(split), len(rows), metrics)
    if isinstance(engine, GenerationEngine) and isinstance(splits, ExampleSplits) and engine.has_source:
        examples = splits.rows(split)
        metrics = evaluate_examples(engine, examples)
        return _evaluation(split, splits.sha256(split), len(examples), metrics)
    if isinstance(engine, GenerationEngine) and isinstance(splits, TextSplits) and not engine.has_source:
        texts = splits.texts(split)
        metrics = evaluate_generation(engine, "\n".join(texts))
        return _evaluation(split, splits.sha256(split), len(texts), metrics)
    raise InvalidInput(f"The artifact is for {engine.manifest.kind}; the data is not.")


def choose_threshold(directory: Path, engine: EncoderEngine, splits: PairSplits) -> Manifest:
    """Write the threshold with the highest F1 on valid into the manifest in `directory`; the engine has it from now on.

    Raises InvalidInput when all labels of valid are the same.
    """
    pairs, truth = as_pairs(splits.valid, splits.positive)
    try:
        threshold = best_threshold(score_pairs(engine, pairs), truth)
    except ValueError as error:
        raise InvalidInput(f"valid: {error}") from None
    engine.manifest = engine.manifest.model_copy(update={"threshold": threshold})
    replace_manifest(directory, engine.manifest)
    return engine.manifest


def as_pairs(rows: Sequence[LabelledPair], positive: str) -> tuple[list[Pair], list[int]]:
    """Rows -> pairs for an engine, and 1 where the label is `positive`."""
    return [Pair(row.text_a, row.text_b) for row in rows], [int(row.label == positive) for row in rows]


def _evaluation(split: str, sha256: str, rows: int, metrics: dict[str, float]) -> Evaluation:
    rounded = {name: round(value, 6) for name, value in metrics.items()}
    return Evaluation(split=split, dataset_sha256=sha256, rows=rows, metrics=rounded)


def record(directory: Path, manifest: Manifest, evaluation: Evaluation) -> Manifest:
    """Append to the manifest in `directory`; an older evaluation on the same rows gives way."""
    same = (evaluation.split, evaluation.dataset_sha256)
    kept = tuple(each for each in manifest.evaluations if (each.split, each.dataset_sha256) != same)
    changed = manifest.model_copy(update={"evaluations": (*kept, evaluation)})
    replace_manifest(directory, changed)
    return changed


# ---------------------------------------------------------------- the command


def main(arguments: list[str]) -> int:
    """The command. Exit codes: 0 done, 1 data or artifact refused, 2 wrong usage or recipe."""
    parser = argparse.ArgumentParser(prog="python -m training evaluate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", type=Path, help="a recipe (checkpoint, fp32 and int8 of its run) or an artifact")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="replace settings of the recipe")
    parser.add_argument("--recipe", type=Path, help="says where an artifact's data is; else its run does")
    parser.add_argument("--split", choices=("train", "valid", "test"), default="test", help="default: test")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_intermixed_args(arguments)
    try:
        recipe, directories = _subjects(options.what, options.recipe, options.overrides)
        splits = load_splits(recipe)
        results = [_evaluate(directory, splits, options.split) for directory in directories]
    except DocumentError as error:
        print(error, file=sys.stderr)
        return 2
    except (SluiceError, DataError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(results, indent=1))
    else:
        print("\n".join(_lines(result) for result in results))
    return 0


def _subjects(what: Path, recipe_file: Path | None, overrides: Sequence[str]) -> tuple[Recipe, list[Path]]:
    """The recipe that says where the data is, and the artifacts to evaluate."""
    if not what.is_dir():
        recipe = read_document(what, Recipe, overrides)
        found = [recipe.run / name for name in ARTIFACTS if (recipe.run / name / "manifest.json").is_file()]
        if not found:
            raise InvalidInput(f"{recipe.run} has no artifact yet; run `python -m training train {what}` first.")
        return recipe, found
    read_manifest(what)  # refuses a folder that is no artifact before any data is read
    if recipe_file:
        return read_document(recipe_file, Recipe, overrides), [what]
    from training.run_record import read_record

    record_of_run = read_record(what.absolute().parent)
    if record_of_run is None:
        raise InvalidInput(f"{what} lies in no run folder, so its data is not known; add --recipe CONFIG.")
    if overrides:
        raise InvalidInput(f"Overrides ({', '.join(overrides)}) need a recipe to apply to; add --recipe CONFIG.")
    return record_of_run.recipe, [what]


def _evaluate(directory: Path, splits: Splits, split: str) -> dict[str, Any]:
    begun = time.monotonic()
    if read_manifest(directory).format == "torch":
        from training.progress import quiet_libraries  # loads transformers, which other formats do without

        quiet_libraries()
    engine = load_engine(directory)
    try:
        # Where an artifact was trained, its threshold was chosen; a bi-encoder that was adopted comes without data.
        if isinstance(engine, EmbeddingEngine) and isinstance(splits, PairSplits) and not engine.manifest.datasets:
            choose_threshold(directory, engine, splits)
        evaluation = evaluate_split(engine, splits, split)
    finally:
        engine.close()
    manifest = record(directory, engine.manifest, evaluation)
    trained_on = manifest.datasets.get(split)
    return {
        "artifact": str(directory),
        "format": manifest.format,
        "precision": manifest.precision,
        "seconds": round(time.monotonic() - begun, 2),
        "same_rows_as_training": None if trained_on is None else trained_on == evaluation.dataset_sha256,
        **evaluation.model_dump(),
    }


def _lines(result: dict[str, Any]) -> str:
    metrics = "  ".join(f"{name} {_short(value)}" for name, value in result["metrics"].items())
    note = "" if result["same_rows_as_training"] in (True, None) else "  (other rows than at training)"
    head = f"{result['artifact']}  {result['format']} {result['precision']}  {result['split']}, {result['rows']} rows"
    return f"{head}{note}  {result['seconds']:.1f} s\n  {metrics}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value.is_integer() and value > 1 else f"{value:.4f}"
