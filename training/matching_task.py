"""Prepares the fine-tuning of a cross-encoder: pairs -> token ids -> padded batches, judged by average precision.

Why average precision picks the checkpoint: it looks at the order of all scores and at no threshold. F1 at the best
threshold jumps with single rows of a small validation set, and the loss goes on rising on overconfident mistakes while
the order still improves. The threshold is then chosen once, on valid, for the checkpoint that won.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, EvalPrediction, PreTrainedTokenizerBase

from models.cross_encoder import freeze_embeddings
from models.positions import usable_positions
from models.registry import builder
from runtime.contract import Pair
from runtime.errors import InvalidInput
from runtime.text import TextEncoder, load_tokenizer
from training.data.pairs import LabelledPair
from training.metrics import average_precision
from training.recipe import CrossEncoder, PairData, Train
from training.task import Batch, Row, Task


def prepare_matching(
    model: CrossEncoder,
    data: PairData,
    train: Train,
    base: Path,
    rows: tuple[Sequence[LabelledPair], Sequence[LabelledPair]],
    work: Path,
) -> Task:
    """A Task from the recipe's sections, the base's folder and the rows of train and valid.

    `work` is a folder for the tokenizer's file. Raises InvalidInput: the base has no fast tokenizer or fewer positions
    than max_tokens; ValueError: it is no encoder.
    """
    network = builder(model.kind, model.architecture)(base, labels=data.labels, dropout=model.dropout)
    longest = usable_positions(network.config)
    if model.max_tokens > longest:
        raise InvalidInput(f"model.max_tokens {model.max_tokens}: the base has {longest} positions; lower it.")
    if train.freeze_embeddings:
        freeze_embeddings(network)
    tokenizer = _tokenizer(base, work, model.max_tokens)
    # The very code that tokenises when the model is served.
    encoder = TextEncoder(load_tokenizer(work / "tokenizer.json"), model.max_tokens)
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

    return Task(
        model=network,
        tokenizer=tokenizer,
        train=encode(rows[0]),
        valid=encode(rows[1]),
        length=lambda row: len(row["ids"]),
        collate=collate,
        best="average_precision",
        higher_is_better=True,
        judge=judge,
    )


def _tokenizer(base: Path, work: Path, max_tokens: int) -> PreTrainedTokenizerBase:
    """The base's tokenizer, also saved to `work` as `tokenizer.json`."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError, ImportError) as error:
        raise InvalidInput(f"The tokenizer of {base} cannot be loaded: {error}") from None
    tokenizer.model_max_length = max_tokens
    tokenizer.save_pretrained(work)
    if not (work / "tokenizer.json").is_file():
        raise InvalidInput(f"{base} has no fast tokenizer (tokenizer.json), which serving needs.")
    return tokenizer
