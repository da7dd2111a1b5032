"""`python -m training train CONFIG [key=value …]`: labelled data -> RUN/checkpoint, an artifact of format "torch".

Started again after a kill, it goes on where the newest checkpoint is and ends with the very weights of an uninterrupted
run; started again when it has finished, it says so. A run whose recipe or data changed is not continued but refused.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
import transformers

from records.document import DocumentError, read_document
from runtime.encoder import EncoderEngine
from runtime.errors import ArtifactRefused, InvalidInput, SluiceError
from runtime.load import load_engine
from runtime.manifest import Manifest, sha256_file, verify
from training.bases import resolve_base
from training.checkpoint import git_commit, seal_checkpoint, versions
from training.curves import draw_curves
from training.data.errors import DataError
from training.data.splits import PairSplits, load_splits
from training.data.texts import TextSplits
from training.evaluate import choose_threshold, evaluate_split, record
from training.generation_task import prepare_generation, unigram_perplexity
from training.loop import checkpoint_step, train_loop
from training.matching_task import prepare_matching
from training.progress import Diverged, ProgressReport, TrainLog, quiet_libraries, read_log
from training.recipe import CausalLM, PairData, Recipe
from training.run_record import TrainRecord, changes, dependencies, read_record, write_record
from training.task import Task

LOG_FILE, CURVES_FILE, REPORT_FILE, REJECTS_FILE = "train_log.jsonl", "curves.png", "data_report.json", "rejects.jsonl"
CHECKPOINT, TRAINER = "checkpoint", "trainer"


class RunRefused(Exception):
    """The run folder holds another training, or one that is running."""


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
    with _locked(run):
        old = None if fresh else read_record(run)
        try:
            splits = load_splits(recipe)
        except DataError:
            # A person looks into the run folder for what is wrong: nothing of an earlier attempt may lie there.
            if old is None:
                for name in (REPORT_FILE, REJECTS_FILE):
                    (run / name).unlink(missing_ok=True)
            raise
        base = resolve_base(recipe.model.base, recipe.model.revision) if recipe.model.base else None
        datasets = {split: splits.sha256(split) for split in ("train", "valid", "test")}
        depends_on = dependencies(recipe, datasets, _weights_sha256(base) if base else None)
        if old is not None:
            _check_same(run, old, depends_on)
            if old.status == "finished" and _is_whole(run / CHECKPOINT):
                shutil.rmtree(run / TRAINER, ignore_errors=True)  # left by a kill at the very end
                return Outcome(old, run / CHECKPOINT, trained=False)
        if fresh or old is None:
            _clear(run)
        _write_data_report(run, splits)
        return _train(recipe, splits, base, _begin(recipe, old, depends_on))


def _train(recipe: Recipe, splits: PairSplits | TextSplits, base: Path | None, begun: TrainRecord) -> Outcome:
    run = recipe.run
    step = checkpoint_step(run / TRAINER)
    if step:
        print(f"resuming after step {step} of {recipe.train.steps}", flush=True)
        begun = begun.model_copy(update={"resumed_after_steps": (*begun.resumed_after_steps, step)})
    write_record(run, begun)
    transformers.set_seed(recipe.seed)
    task = _prepare(recipe, splits, base)
    weights = sum(parameter.numel() for parameter in task.model.parameters() if parameter.requires_grad)
    print(
        f"{recipe.name}: {type(task.model).__name__}, {weights:,} trained weights, {len(task.train)} rows of "
        f"at most {recipe.model.max_tokens} tokens, {recipe.train.steps} steps of {recipe.train.batch_size} rows, "
        f"seed {recipe.seed}, {torch.get_num_threads()} threads",
        flush=True,
    )
    log = TrainLog(run / LOG_FILE, step)
    report = ProgressReport(log, terminal=sys.stdout.isatty())
    best = train_loop(task, recipe.train, recipe.seed, run / TRAINER, report)
    seconds = log.seconds
    draw_curves(read_log(run / LOG_FILE), run / CURVES_FILE, f"{recipe.name}: best at step {best['step']}")
    manifest = _save(recipe, splits, task)
    figures = {each.split: dict(each.metrics) for each in manifest.evaluations}
    finished = begun.model_copy(
        update={
            "status": "finished",
            "seconds": round(seconds, 1),
            "best": best,
            "valid": figures["valid"],
            "test": figures["test"],
            "unigram_perplexity": _unigram_perplexity(splits, task),
        }
    )
    write_record(run, finished)
    # The optimizer's state is of no more use; it is several times the size of the model.
    shutil.rmtree(run / TRAINER)
    return Outcome(finished, run / CHECKPOINT, trained=True)


def _prepare(recipe: Recipe, splits: PairSplits | TextSplits, base: Path | None) -> Task:
    if isinstance(splits, TextSplits):
        assert isinstance(recipe.model, CausalLM)  # the recipe's own check
        return prepare_generation(recipe.model, base, (splits.train, splits.valid))
    assert not isinstance(recipe.model, CausalLM)
    assert isinstance(recipe.data, PairData)
    assert base is not None
    work = recipe.run / TRAINER
    work.mkdir(exist_ok=True)
    rows = (splits.train, splits.valid)
    return prepare_matching(recipe.model, recipe.data, recipe.train, base, rows, work)


def _unigram_perplexity(splits: PairSplits | TextSplits, task: Task) -> float | None:
    if isinstance(splits, PairSplits):
        return None
    return round(unigram_perplexity(task.tokenizer, splits.train, splits.test), 3)


def _save(recipe: Recipe, splits: PairSplits | TextSplits, task: Task) -> Manifest:
    """The trained model as the artifact RUN/checkpoint: threshold chosen on valid, then valid and test evaluated."""
    target = recipe.run / CHECKPOINT
    directory = target.with_name(f".{CHECKPOINT}.partial")
    shutil.rmtree(directory, ignore_errors=True)
    task.model.save_pretrained(directory)
    task.tokenizer.save_pretrained(directory)
    for path in directory.iterdir():
        path.chmod(0o644)  # the weights are written readable by their owner only, which no other user could serve
    fields = {
        "max_tokens": recipe.model.max_tokens,
        "datasets": {split: splits.sha256(split) for split in ("train", "valid", "test")},
        "seed": recipe.seed,
    }
    if isinstance(splits, PairSplits):
        fields["positive"] = splits.positive
    manifest = seal_checkpoint(directory, **fields)
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


# ---------------------------------------------------------------- the run folder


@contextmanager
def _locked(run: Path) -> Iterator[None]:
    """One training at a time in a run folder; the lock goes with the process, however that ends."""
    with (run / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunRefused(f"{run} is in use by another process; wait for it, or give another name=….") from None
        yield


def _begin(recipe: Recipe, old: TrainRecord | None, depends_on: dict[str, object]) -> TrainRecord:
    now = versions()
    if old is None:
        return TrainRecord(
            status="running",
            recipe=recipe,
            depends_on=depends_on,
            versions=now,
            git_commit=git_commit(),
            started=datetime.now(UTC).replace(microsecond=0),
        )
    other = [f"{name} {old.versions.get(name)} -> {now[name]}" for name in now if old.versions.get(name) != now[name]]
    if other:
        print(f"WARNING: resumed with other libraries, so the weights may differ slightly: {', '.join(other)}")
    return old.model_copy(update={"status": "running", "recipe": recipe})


def _check_same(run: Path, old: TrainRecord, depends_on: dict[str, object]) -> None:
    # Through JSON, as the old one went: tuples and lists compare equal then.
    different = changes(old.depends_on, json.loads(json.dumps(depends_on)))
    if different:
        what = "finished with" if old.status == "finished" else "was begun with"
        listed = "\n".join(f"  {change}" for change in different)
        raise RunRefused(
            f"{run} {what} another recipe or data:\n{listed}\n"
            "Put it back, give the new run another name=…, or start over with --fresh, which deletes the old one."
        )


def _is_whole(checkpoint: Path) -> bool:
    try:
        verify(checkpoint)
    except ArtifactRefused as error:
        print(f"{error} Training again.")
        return False
    return True


def _clear(run: Path) -> None:
    """Remove what an earlier training left here, with the artifacts that were made from its checkpoint."""
    for name in (TRAINER, CHECKPOINT, "fp32", "fp16", "int8"):
        shutil.rmtree(run / name, ignore_errors=True)
    for name in (LOG_FILE, CURVES_FILE, REPORT_FILE, REJECTS_FILE):
        (run / name).unlink(missing_ok=True)


def _write_data_report(run: Path, splits: PairSplits | TextSplits) -> None:
    for text in splits.report.lines():
        print(text, flush=True)
    (run / REPORT_FILE).write_text(splits.report.model_dump_json(indent=1) + "\n", encoding="utf-8")
    rejects = splits.rejects if isinstance(splits, PairSplits) else ()
    (run / REJECTS_FILE).unlink(missing_ok=True)
    if rejects:
        with (run / REJECTS_FILE).open("w", encoding="utf-8") as stream:
            for split, reject in rejects:
                line = {"split": split, "where": reject.where, "reason": reject.reason, "detail": reject.detail}
                stream.write(json.dumps({**line, "row": reject.row}, default=str) + "\n")
        print(f"data rejects: {run / REJECTS_FILE}", flush=True)


def _weights_sha256(base: Path) -> str:
    """Digest of a base's configuration, tokenizer and weights."""
    digest = hashlib.sha256()
    for path in sorted(base.iterdir()):
        if path.suffix in {".safetensors", ".bin"} or path.name in {"config.json", "tokenizer.json", "vocab.txt"}:
            digest.update(f"{path.name} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


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
