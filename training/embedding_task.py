"""Prepares the training of a bi-encoder: grouped texts -> token ids -> batches, judged by the cosines of valid's pairs.

Two losses. `proxy` compares a text with one trained vector a group, so every step sees every group: best where groups
are few and have many texts. `contrastive` compares the texts of a batch, in which groups come in twos: it needs no
vector a group, and is the one for many small groups. Only the bi-encoder itself is saved.

Average precision picks the checkpoint, as for a cross-encoder; a text that stands in several pairs of valid is embedded
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import EvalPrediction, PretrainedConfig

from models import bi_encoder
from models.bi_encoder import BiEncoder
from models.cross_encoder import freeze_embeddings
from models.positions import usable_positions
from runtime.errors import InvalidInput
from runtime.text import TextEncoder, load_tokenizer
from training.batches import sorted_batches
from training.data.groups import GroupedText
from training.data.pairs import LabelledPair
from training.encoders import prepare_encoder, prepare_tokenizer
from training.group_losses import contrastive_loss, proxy_loss
from training.metrics import average_precision
from training.recipe import BiEncoder as Settings
from training.recipe import EmbeddingData, Train
from training.task import Batch, Row, Task, chosen_by

PROTOTYPE_RATE = 10.0  # times the learning rate: a vector sees its own group in a few rows of a batch only
STARTED_ON = 16  # texts of a group whose mean its prototype starts as


class ProxyEncoder(nn.Module):
    """A bi-encoder in training, with a vector a group beside it: prototypes (G, D)."""

    def __init__(self, network: BiEncoder, prototypes: Tensor) -> None:
        super().__init__()
        self.network, self.prototypes = network, nn.Parameter(prototypes)

    @property
    def config(self) -> PretrainedConfig:
        """The encoder's."""
        return self.network.config

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The bi-encoder's vectors (B, D)."""
        vectors: Tensor = self.network(input_ids, attention_mask)
        return vectors


def prepare_embedding(
    model: Settings,
    data: EmbeddingData,
    train: Train,
    base: Path | None,
    rows: tuple[Sequence[GroupedText], Sequence[LabelledPair]],
    work: Path,
    network: BiEncoder | None = None,
) -> Task:
    """A Task from the recipe's sections, the base's folder (None: a new encoder), grouped texts and the pairs of valid.

    `work` is a folder for the tokenizer's file; `network` is what to train instead of a new one on the base. Raises
    InvalidInput: the base has no fast tokenizer or fewer positions than max_tokens; ValueError: it is no encoder.
    """
    tokenizer = prepare_tokenizer(model, base, [row.text for row in rows[0]], work)
    if network is None:
        fresh = prepare_encoder(model, base, tokenizer)
        network = bi_encoder.build(fresh, pooling=model.pooling, dropout=model.dropout)
    longest = usable_positions(network.config)
    if model.max_tokens > longest:
        raise InvalidInput(f"model.max_tokens {model.max_tokens}: the base has {longest} positions; lower it.")
    if train.freeze_embeddings:
        freeze_embeddings(network.encoder)
    # The very code that tokenises when the model is served.
    encoder = TextEncoder(load_tokenizer(work / "tokenizer.json"), model.max_tokens)
    collate = partial(_collate, pad=network.config.pad_token_id or 0)
    numbers = {group: number for number, group in enumerate(sorted({row.group for row in rows[0]}))}
    texts = encoder.encode([row.text for row in rows[0]])
    members: list[Row] = [
        {"ids": item.ids, "groups": numbers[row.group]} for item, row in zip(texts, rows[0], strict=True)
    ]
    places = {text: place for place, text in enumerate(dict.fromkeys(t for r in rows[1] for t in (r.text_a, r.text_b)))}
    asked: list[Row] = [{"ids": item.ids, "labels": place} for place, item in enumerate(encoder.encode(list(places)))]
    ends = np.array([[places[row.text_a], places[row.text_b]] for row in rows[1]])  # (N, 2)
    truth = np.array([row.label == data.positive for row in rows[1]])

    proxies = None
    if model.loss == "proxy":
        proxies = ProxyEncoder(network, _means(network, members, len(numbers), collate, train.batch_size))

    def loss(trained: nn.Module, batch: Batch) -> tuple[Tensor | None, Tensor]:
        vectors = trained(batch["input_ids"], batch["attention_mask"])
        if "groups" not in batch:
            return None, vectors
        if proxies is None:
            return contrastive_loss(vectors, batch["groups"], model.temperature), vectors
        return proxy_loss(vectors, proxies.prototypes, batch["groups"], model.temperature), vectors

    def judge(prediction: EvalPrediction) -> dict[str, float]:
        vectors = np.empty(np.shape(prediction.predictions))  # (texts, D)
        vectors[np.asarray(prediction.label_ids)] = prediction.predictions
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)
        cosines = (vectors[ends[:, 0]] * vectors[ends[:, 1]]).sum(1)
        return {
            "average_precision": average_precision(cosines, truth),
            "loss": float(np.square(cosines - truth).mean()),
        }

    best, higher_is_better = chosen_by(model.kind)
    return Task(
        model=proxies or network,
        tokenizer=tokenizer,
        train=members,
        valid=asked,
        length=lambda row: len(row["ids"]),
        collate=collate,
        best=best,
        higher_is_better=higher_is_better,
        judge=judge,
        loss=loss,
        groups=None if proxies else [row["groups"] for row in members],
        rates={"prototypes": PROTOTYPE_RATE} if proxies else {},
        save=partial(bi_encoder.save, network),
    )


def _collate(batch: Sequence[Row], *, pad: int) -> Batch:
    """Rows of different length -> (B, T) padded to the longest, and what else a row has (B,)."""
    width = max(len(row["ids"]) for row in batch)
    ids = torch.full((len(batch), width), pad, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(batch):
        length = len(row["ids"])
        ids[index, :length] = torch.tensor(row["ids"])
        mask[index, :length] = 1
    marks = {key: torch.tensor([row[key] for row in batch]) for key in batch[0] if key != "ids"}
    return {"input_ids": ids, "attention_mask": mask, **marks}


@torch.no_grad()
def _means(network: BiEncoder, rows: Sequence[Row], groups: int, collate: partial[Batch], batch_size: int) -> Tensor:
    """The mean direction (G, D) of each group's first texts, as the network has them before it is trained."""
    taken: list[Row] = []
    counts = [0] * groups
    for row in rows:
        counts[row["groups"]] += 1
        if counts[row["groups"]] <= STARTED_ON:
            taken.append(row)
    sums: Tensor | None = None
    network.eval()
    for places in sorted_batches([len(row["ids"]) for row in taken], batch_size):
        batch = collate([taken[place] for place in places])
        units = nn.functional.normalize(network(batch["input_ids"], batch["attention_mask"]), dim=1)
        sums = torch.zeros(groups, units.shape[1]) if sums is None else sums
        sums.index_add_(0, batch["groups"], units)
    network.train()
    assert sums is not None  # there are rows
    return nn.functional.normalize(sums, dim=1)
