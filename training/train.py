"""`python -m training train CONFIG [key=value …]`: labelled data -> RUN/checkpoint, an artifact of format "torch".

Started again after a kill, it goes on where the newest checkpoint is and ends with the very weights of an uninterrupted
run; started again when it has finished, it says so. A run whose recipe or data changed is not continued but refused.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from records.document import DocumentError, read_document
from runtime.encoder import EncoderEngine
from runtime.errors import InvalidInput, SluiceError
from runtime.load import load_engine
from runtime.manifest import Manifest
from training.bases import resolve_base, weights_sha256
from training.checkpoint import seal_checkpoint
from training.curves import draw_curves
from training.data.errors import DataError
from training.data.splits import ExampleSplits, GroupedSplits, PairSplits, Splits, load_splits
from training.data.texts import TextSplits
from training.embedding_task import prepare_embedding
from training.evaluate import choose_threshold, evaluate_split, record
from training.features import cache_hidden_states
from training.generation_task import prepare_generation, unigram_perplexity
from training.loop import checkpoint_step, train_loop
from training.matching_task import prepare_matching
from training.model_section import BiEncoder, CausalLM, EncoderDecoder, PairModel
from training.progress import Diverged, ProgressReport, TrainLog, quiet_libraries, read_log
from training.recipe import EmbeddingData, MatchingData, Recipe
from training.run_folder import (
    CHECKPOINT,
    CURVES_FILE,
    LOG_FILE,
    REJECTS_FILE,
    REPORT_FILE,
    TENSORBOARD,
    TRAINER,
    RunRefused,
    begin,
    check_same,
    clear,
    is_whole,
    locked,
    write_data_report,
)
from training.run_record import TrainRecord, Usage, dependencies, read_record, write_record
from training.scalars import Scalars
from training.seq2seq_task import prepare_seq2seq
from training.task import Task
from training.tracking import MlflowRun
from training.usage import Meter


@dataclass(frozen=True, slots=True)
class Outcome:
    """How `train` ended. `trained`: False when the run had finished before."""

    record: TrainRecord
    checkpoint: Path
    trained: bool


def train(recipe: Recipe, *, fresh: bool = False) -> Outcome:
    """Train what the recipe says, or what is left of it; `fresh` throws away what there is first.

    Raises RunRefused, DataError, Diverged, SluiceError (base or artifact), ValueError (a shape that cannot be).
    """
    run = recipe.run
    run.mkdir(parents=True, exist_ok=True)
    recipe = on_this_machine(recipe)
    with locked(run), with_threads(recipe.train.threads):
        old = None if fresh else read_record(run)
        reading = Meter(old.usage if old else Usage())
        try:
            with reading.stage("data"):
                splits = load_splits(recipe)
        except DataError:
            # A person looks into the run folder for what is wrong: nothing of an earlier attempt may lie there.
            if old is None:
                for name in (REPORT_FILE, REJECTS_FILE):
                    (run / name).unlink(missing_ok=True)
            raise
        depends_on, base = depends(recipe, splits)
        if old is not None:
            check_same(run, old, depends_on)
            if old.status == "finished" and is_whole(run / CHECKPOINT):
                shutil.rmtree(run / TRAINER, ignore_errors=True)  # left by a kill at the very end
                return Outcome(old, run / CHECKPOINT, trained=False)
        if fresh or old is None:
            clear(run)
        write_data_report(run, splits)
        begun = begin(recipe, old, depends_on).model_copy(update={"usage": reading.usage})
        return _train(recipe, splits, base, begun)


def on_this_machine(recipe: Recipe) -> Recipe:
    """The recipe as it is trained here, and recorded: with larger batches where there is a GPU (`Train.on_gpu`)."""
    train = recipe.train.on_gpu() if torch.cuda.is_available() else recipe.train
    return recipe.model_copy(update={"train": train})


@contextmanager
def with_threads(count: int | None) -> Iterator[None]:
    """Let torch compute with `count` threads in the block; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def depends(recipe: Recipe, splits: Splits) -> tuple[dict[str, Any], Path | None]:
    """What the weights depend on, and the folder of the base (None: from scratch). Raises SluiceError for the base."""
    base = resolve_base(recipe.model.base, recipe.model.revision) if recipe.model.base else None
    return dependencies(recipe, splits.report.digests, weights_sha256(base) if base else None), base


def _train(recipe: Recipe, splits: Splits, base: Path | None, begun: TrainRecord) -> Outcome:
    run = recipe.run
    step = checkpoint_step(run / TRAINER)
    if step:
        print(f"resuming after step {step} of {recipe.train.steps}", flush=True)
        begun = begun.model_copy(update={"resumed_after_steps": (*begun.resumed_after_steps, step)})
    tracked = None
    if recipe.track.mlflow:
        tracked = MlflowRun(recipe.track.mlflow, recipe.track.experiment, begun, begun.mlflow_run, step)
        begun = begun.model_copy(update={"mlflow_run": tracked.run_id})
    write_record(run, begun)
    scalars = Scalars(run / TENSORBOARD, begun.started)

    def kept(usage: Usage) -> None:
        log.flush()
        write_record(run, begun.model_copy(update={"usage": usage}))

    meter = Meter(begun.usage, kept)
    with meter.stage("prepare"):
        task = prepare(recipe, splits, base)
    log = TrainLog(run / LOG_FILE, step, (scalars, tracked) if tracked else (scalars,))
    best = fit(recipe, task, log, meter)
    seconds = log.seconds
    scalars.close()
    draw_curves(read_log(run / LOG_FILE), run / CURVES_FILE, f"{recipe.name}: best at step {best['step']}")
    manifest = _save(recipe, splits, task, meter)
    figures = {each.split: dict(each.metrics) for each in manifest.evaluations}
    finished = begun.model_copy(
        update={
            "status": "finished",
            "seconds": round(seconds, 1),
            "best": best,
            "valid": figures["valid"],
            "test": figures["test"],
            "unigram_perplexity": _unigram_perplexity(splits, task),
            "usage": meter.usage,
            "artifacts": {CHECKPOINT: manifest.digest},
        }
    )
    write_record(run, finished)
    if tracked:
        tracked.finish(finished)
    # The optimizer's state is of no more use; it is several times the size of the model.
    shutil.rmtree(run / TRAINER)
    return Outcome(finished, run / CHECKPOINT, trained=True)


def prepare(recipe: Recipe, splits: Splits, base: Path | None) -> Task:
    """Seed everything and make the model and its rows. Raises SluiceError, ValueError."""
    transformers.set_seed(recipe.seed)
    task = _prepare(recipe, splits, base)
    weights = sum(parameter.numel() for parameter in task.model.parameters() if parameter.requires_grad)
    print(
        f"{recipe.name}: {type(task.model).__name__}, {weights:,} trained weights, {len(task.train)} rows of "
        f"at most {recipe.model.max_tokens} tokens, {recipe.train.steps} steps of {recipe.train.batch_size} rows, "
        f"seed {recipe.seed}, {torch.get_num_threads()} threads",
        flush=True,
    )
    return task


def fit(recipe: Recipe, task: Task, log: TrainLog, meter: Meter, **options: Any) -> dict[str, Any]:
    """The training loop on the run's own folder, told on the terminal; see `train_loop`, which takes `options` too."""
    report = ProgressReport(log, terminal=sys.stdout.isatty())
    return train_loop(task, recipe.train, recipe.seed, recipe.run / TRAINER, report, meter=meter, **options)


def _prepare(recipe: Recipe, splits: Splits, base: Path | None) -> Task:
    if isinstance(splits, TextSplits):
        assert isinstance(recipe.model, CausalLM)  # the recipe's own check
        return prepare_generation(recipe.model, base, (splits.train, splits.valid))
    if isinstance(splits, ExampleSplits):
        assert isinstance(recipe.model, EncoderDecoder)
        return prepare_seq2seq(recipe.model, base, (splits.train, splits.valid))
    work = recipe.run / TRAINER
    work.mkdir(exist_ok=True)
    if isinstance(splits, GroupedSplits):
        assert isinstance(recipe.model, BiEncoder)
        assert isinstance(recipe.data, EmbeddingData)
        texts = (splits.groups, splits.valid)
        return prepare_embedding(recipe.model, recipe.data, recipe.train, base, texts, work)
    assert isinstance(recipe.model, PairModel)
    assert isinstance(recipe.data, MatchingData)
    rows = (splits.train, splits.valid)
    task = prepare_matching(recipe.model, recipe.data, recipe.train, base, rows, work)
    return cache_hidden_states(task, work) if recipe.model.frozen else task


def _unigram_perplexity(splits: Splits, task: Task) -> float | None:
    if not isinstance(splits, TextSplits):
        return None
    return round(unigram_perplexity(task.tokenizer, splits.train, splits.test), 3)


def _save(recipe: Recipe, splits: Splits, task: Task, meter: Meter) -> Manifest:
    """The trained model as the artifact RUN/checkpoint: threshold chosen on valid, then valid and test evaluated."""
    target = recipe.run / CHECKPOINT
    directory = target.with_name(f".{CHECKPOINT}.partial")
    shutil.rmtree(directory, ignore_errors=True)
    with meter.stage("save"):
        manifest = _seal(recipe, splits, task, directory)
    with meter.stage("evaluate"):
        engine = load_engine(directory)
        try:
            if isinstance(engine, EncoderEngine) and isinstance(splits, PairSplits):
                manifest = choose_threshold(directory, engine, splits)
            for split in ("valid", "test"):
                manifest = record(directory, manifest, evaluate_split(engine, splits, split))
        finally:
            engine.close()
    shutil.rmtree(target, ignore_errors=True)
    directory.rename(target)
    return manifest


def _seal(recipe: Recipe, splits: Splits, task: Task, directory: Path) -> Manifest:
    directory.mkdir()
    (task.save or task.model.save_pretrained)(directory)
    task.tokenizer.save_pretrained(directory)
    for path in directory.iterdir():
        path.chmod(0o644)  # the weights are written readable by their owner only, which no other user could serve
    fields = {
        "max_tokens": recipe.model.max_tokens,
        "datasets": splits.report.digests,
        "seed": recipe.seed,
    }
    if isinstance(splits, PairSplits) and recipe.model.kind == "matching":
        fields["positive"] = splits.positive
    return seal_checkpoint(directory, **fields)


# ---------------------------------------------------------------- the command


def main(arguments: list[str]) -> int:
    """The command. Exit codes: 0 trained (or had been), 1 refused or failed, 2 wrong usage or recipe, 130 stopped."""
    parser = argparse.ArgumentParser(prog="python -m training train", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", type=Path, help="recipe (YAML)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="replace settings of the recipe")
    parser.add_argument("--fresh", action="store_true", help="throw away what the run folder has and start over")
    options = parser.parse_intermixed_args(arguments)
    try:
        recipe = read_document(options.config, Recipe, options.overrides)
    except DocumentError as error:
        print(error, file=sys.stderr)
        return 2
    quiet_libraries()
    try:
        outcome = train(recipe, fresh=options.fresh)
    except (SluiceError, DataError, RunRefused, Diverged, InvalidInput, ValueError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 1
    except torch.OutOfMemoryError as error:
        print(f"train: the GPU's memory is full; give a smaller train.gpu_batch_size. {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    _tell(outcome)
    return 0


def _tell(outcome: Outcome) -> None:
    done = outcome.record
    if not outcome.trained:
        print(f"{outcome.checkpoint} has been trained with this recipe and data; nothing to do (--fresh starts over)")
    best = done.best
    print(f"best validation: {best['metric']} {best['value']:.4f} at step {best['step']} of {done.recipe.train.steps}")
    for split, metrics in (("valid", done.valid), ("test", done.test)):
        print(f"{split}: " + "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    if done.unigram_perplexity:
        print(f"for comparison, the perplexity on test of counting tokens alone: {done.unigram_perplexity:.1f}")
    print(f"made: {outcome.checkpoint} in {done.seconds:.0f} s of training; log and curves beside it")
