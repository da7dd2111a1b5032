"""Trains an artifact further inside a pipeline: its network and tokenizer as they are, the recipe's data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import transformers

from models import bi_encoder
from runtime.errors import InvalidInput
from runtime.manifest import read_manifest
from training.compression.step import Context
from training.data.splits import GroupedSplits, PairSplits
from training.data.texts import TextSplits
from training.embedding_task import prepare_embedding
from training.generation_task import prepare_generation
from training.loop import checkpoint_step, train_loop
from training.matching_task import prepare_matching
from training.model_section import BiEncoder, CausalLM, PairModel
from training.progress import ProgressReport, TrainLog, quiet_libraries
from training.recipe import EmbeddingData, MatchingData, Train
from training.task import Task

TRAINER, TOKENIZER, LOG_FILE = "trainer", "tokenizer", "train_log.jsonl"  # below the step's work folder


def artifact_task(source: Path, context: Context, train: Train, dropout: float | None = None) -> Task:
    """The training of the artifact `source`, of format torch, on the data of the context's recipe; seeded.

    `dropout`: in a bi-encoder everywhere, in a pair model before the prediction layer; None: as it is, or the recipe's.
    Raises InvalidInput: no recipe, or one for another kind.
    """
    quiet_libraries()
    transformers.set_seed(context.seed)
    manifest, recipe, splits = read_manifest(source), context.recipe, context.splits
    if recipe is None:
        raise InvalidInput("Training in a pipeline needs labelled data: compress a recipe, not a folder.")
    work = context.work / TOKENIZER
    work.mkdir(parents=True, exist_ok=True)
    if isinstance(splits, TextSplits) and isinstance(recipe.model, CausalLM) and manifest.kind == "generation":
        model = recipe.model.model_copy(update={"max_tokens": manifest.max_tokens})
        return prepare_generation(model, source, (splits.train, splits.valid))
    if isinstance(splits, GroupedSplits) and isinstance(recipe.model, BiEncoder) and manifest.kind == "embedding":
        assert isinstance(recipe.data, EmbeddingData)
        network = bi_encoder.load(source)
        if dropout is not None:
            bi_encoder.set_dropout(network, dropout)
        settings = recipe.model.model_copy(update={"encoder": None, "max_tokens": manifest.max_tokens})
        texts = (splits.groups, splits.valid)
        return prepare_embedding(settings, recipe.data, train, source, texts, work, network)
    if isinstance(splits, PairSplits) and isinstance(recipe.model, PairModel) and manifest.kind == "matching":
        assert isinstance(recipe.data, MatchingData)
        # Whatever network it is, it comes whole from its folder, as a cross-encoder does.
        changed: dict[str, Any] = {"architecture": "cross-encoder", "encoder": None, "max_tokens": manifest.max_tokens}
        changed |= {} if dropout is None else {"dropout": dropout}
        pair_model = recipe.model.model_copy(update=changed)
        return prepare_matching(pair_model, recipe.data, train, source, (splits.train, splits.valid), work)
    raise InvalidInput(f"{source} is of kind {manifest.kind}, and the recipe's model of kind {recipe.model.kind}.")


def fit(task: Task, train: Train, directory: Path, context: Context) -> dict[str, Any]:
    """Train `task` and write the weights of its best validation to `directory`, with the tokenizer.

    Goes on where an earlier attempt in the same work folder was stopped. Returns the best validation.
    """
    trainer = context.work / TRAINER
    trainer.mkdir(parents=True, exist_ok=True)
    log = TrainLog(context.work / LOG_FILE, checkpoint_step(trainer))
    best = train_loop(task, train, context.seed, trainer, ProgressReport(log, terminal=sys.stdout.isatty()))
    (task.save or task.model.save_pretrained)(directory)  # type: ignore[operator]
    task.tokenizer.save_pretrained(directory)
    for path in directory.rglob("*.safetensors"):
        path.chmod(0o644)  # they are written readable by their owner only, which no other user could serve
    return best
