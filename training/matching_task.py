"""Prepares the training of a model of pairs: pairs -> token ids -> padded batches, judged by average precision.

Why average precision picks the checkpoint: it looks at the order of all scores and at no threshold. F1 at the best
threshold jumps with single rows of a small validation set, and the loss goes on rising on overconfident mistakes while
the order still improves. The threshold is then chosen once, on valid, for the checkpoint that won.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import EvalPrediction

from models.cross_encoder import freeze_embeddings
from models.positions import usable_positions
from models.registry import builder
from runtime.contract import Pair
from runtime.errors import InvalidInput
from runtime.text import TextEncoder, load_tokenizer
from training.data.pairs import LabelledPair
from training.encoders import prepare_encoder, prepare_tokenizer
from training.metrics import average_precision
from training.model_section import PairModel
from training.recipe import MatchingData, Train
from training.task import Batch, Row, Task, chosen_by
from training.vocabulary import pair_frame


def prepare_matching(
    model: PairModel,
    data: MatchingData,
    train: Train,
    base: Path | None,
    rows: tuple[Sequence[LabelledPair], Sequence[LabelledPair]],
    work: Path,
) -> Task:
    """A Task from the recipe's sections, the base's folder (None: a new encoder) and the rows of train and valid.

    `work` is a folder for the tokenizer's file. Raises InvalidInput: the base has no fast tokenizer or fewer positions
    than max_tokens; ValueError: it is no encoder.
    """
    tokenizer = prepare_tokenizer(model, base, [text for row in rows[0] for text in (row.text_a, row.text_b)], work)
    serving_tokenizer = load_tokenizer(work / "tokenizer.json")
    if model.architecture == "pair-classifier":
        network = builder(model.kind, model.architecture)(
            prepare_encoder(model, base, tokenizer),
            head=model.head,
            head_hidden=model.head_hidden,
            frame=pair_frame(serving_tokenizer),
            labels=data.labels,
            dropout=model.dropout,
            frozen=model.frozen,
        )
    else:
        network = builder(model.kind, model.architecture)(base, labels=data.labels, dropout=model.dropout)
    longest = usable_positions(network.config)
    if model.max_tokens > longest:
        raise InvalidInput(f"model.max_tokens {model.max_tokens}: the base has {longest} positions; lower it.")
    if train.freeze_embeddings:
        freeze_embeddings(network)
    # The very code that tokenises when the model is served.
    encoder = TextEncoder(serving_tokenizer, model.max_tokens)
    segments = getattr(network.config, "type_vocab_size", 0) > 1
    pad = network.config.pad_token_id or 0
    positive = data.labels.index(data.positive)

    def encode(pairs: Sequence[LabelledPair]) -> list[Row]:
        encoded = encoder.encode([Pair(pair.text_a, pair.text_b) for pair in pairs])
        return [
            {"ids": item.ids, "types": item.type_ids, "label": data.labels.index(pair.label)}
            for item, pair in zip(encoded, pairs, strict=True)
        ]

    def collate(batch: Sequence[Row]) -> Batch:
        """Rows of different length -> (B, T) padded to the longest, labels (B,)."""
        width = max(len(row["ids"]) for row in batch)
        ids = torch.full((len(batch), width), pad, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        types = torch.zeros_like(ids)
        for index, row in enumerate(batch):
            length = len(row["ids"])
            ids[index, :length] = torch.tensor(row["ids"])
            types[index, :length] = torch.tensor(row["types"])
            mask[index, :length] = 1
        batched = {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([row["label"] for row in batch])}
        return batched | ({"token_type_ids": types} if segments else {})

    def judge(prediction: EvalPrediction) -> dict[str, float]:
        logits = np.asarray(prediction.predictions, np.float64)  # (N, C)
        # The log-odds of the positive label: the same order as its probability, without its rounding to 0 and 1.
        others = np.delete(logits, positive, axis=1)
        scores = logits[:, positive] - np.log(np.exp(others - others.max(1, keepdims=True)).sum(1)) - others.max(1)
        return {"average_precision": average_precision(scores, np.asarray(prediction.label_ids) == positive)}

    best, higher_is_better = chosen_by(model.kind)
    return Task(
        model=network,
        tokenizer=tokenizer,
        train=encode(rows[0]),
        valid=encode(rows[1]),
        length=lambda row: len(row["ids"]),
        collate=collate,
        best=best,
        higher_is_better=higher_is_better,
        judge=judge,
    )
