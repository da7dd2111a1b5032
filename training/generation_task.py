"""Prepares the training of a causal language model: texts -> byte-level BPE -> blocks of max_tokens, judged by loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from models import causal_lm
from models.registry import builder
from runtime.errors import InvalidInput
from training.model_section import CausalLM
from training.task import Batch, Row, Task, chosen_by
from training.vocabulary import train_bpe

IGNORED = -100  # the label that no loss is computed for


def prepare_generation(model: CausalLM, base: Path | None, texts: tuple[Sequence[str], Sequence[str]]) -> Task:
    """A Task from the recipe's model section, the base's folder (None: from scratch), documents of train and valid.

    Raises InvalidInput: the base has no end token or fewer positions than max_tokens, or train is shorter than a block;
    ValueError: a shape that cannot be.
    """
    if base is None:
        tokenizer = train_bpe(texts[0], model.vocab_size, model.max_tokens)
        network = builder(model.kind, model.architecture)(
            causal_lm.Shape(
                vocab_size=len(tokenizer),
                max_tokens=model.max_tokens,
                layers=model.layers,
                hidden=model.hidden,
                heads=model.heads,
                kv_heads=model.kv_heads,
                dropout=model.dropout,
                end_id=tokenizer.eos_token_id,
            )
        )
    else:
        tokenizer = AutoTokenizer.from_pretrained(base)
        network = causal_lm.load(base)
        if tokenizer.eos_token_id is None:
            raise InvalidInput(f"The tokenizer of {base} has no end token to put between documents.")
        longest = network.config.max_position_embeddings
        if model.max_tokens > longest:
            raise InvalidInput(f"model.max_tokens {model.max_tokens}: the base has {longest} positions; lower it.")
    end = tokenizer.eos_token_id
    streams = [token_stream(tokenizer, part, end) for part in texts]
    if len(streams[0]) < model.max_tokens:
        raise InvalidInput(
            f"train has {len(streams[0])} tokens, less than one block of model.max_tokens {model.max_tokens}; "
            "give more text or lower model.max_tokens."
        )
    train, valid = (blocks(stream, model.max_tokens) for stream in streams)

    def collate(batch: Sequence[Row]) -> Batch:
        """Blocks -> (B, T). Padding comes after all that is attended to, so it needs no mask, only no loss."""
        width = max(len(row["ids"]) for row in batch)
        ids = torch.full((len(batch), width), end, dtype=torch.int64)
        labels = torch.full_like(ids, IGNORED)
        for index, row in enumerate(batch):
            ids[index, : len(row["ids"])] = torch.from_numpy(row["ids"])
            labels[index, : len(row["ids"])] = torch.from_numpy(row["ids"])
        return {"input_ids": ids, "labels": labels}

    best, higher_is_better = chosen_by(model.kind)
    return Task(
        model=network,
        tokenizer=tokenizer,
        train=train,
        valid=valid,
        length=lambda row: len(row["ids"]),
        collate=collate,
        best=best,
        higher_is_better=higher_is_better,
    )


def token_stream(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], end: int) -> np.ndarray:
    """All documents as one run of ids, the end token before each and after the last."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    ids: list[int] = []
    for text in texts:
        ids += [end, *backend.encode(text, add_special_tokens=False).ids]
    return np.asarray([*ids, end], np.int64)


def blocks(stream: np.ndarray, size: int) -> list[Row]:
    """Cut a run of ids into blocks of `size`; the last may be shorter, down to two (one to see, one to predict)."""
    cut = [stream[start : start + size] for start in range(0, len(stream), size)]
    if len(cut) > 1 and len(cut[-1]) < 2:
        # One token alone predicts nothing; the block before it gives up its last token to it.
        cut[-2:] = [stream[-size - 1 : -2], stream[-2:]]
    return [{"ids": block} for block in cut]


def unigram_perplexity(tokenizer: PreTrainedTokenizerBase, train: Sequence[str], test: Sequence[str]) -> float:
    """Perplexity on `test` of the token frequencies of `train`, each count plus one: what any training must beat."""
    end = tokenizer.eos_token_id
    counts = np.bincount(token_stream(tokenizer, train, end), minlength=len(tokenizer)) + 1.0
    return float(np.exp(-np.log(counts[token_stream(tokenizer, test, end)] / counts.sum()).mean()))
