"""Prepares the training of an encoder-decoder: sources and targets -> one tokenizer -> rows, judged by loss.

The decoder sees the target one place to the right, behind its start token, which the model puts there by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from models import seq2seq_lm
from models.positions import usable_positions
from models.registry import builder
from runtime.errors import InvalidInput
from training.data.examples import Example, shortened
from training.generation_task import IGNORED
from training.model_section import EncoderDecoder
from training.task import Batch, Row, Task, chosen_by
from training.vocabulary import train_seq2seq_bpe


def prepare_seq2seq(
    model: EncoderDecoder, base: Path | None, examples: tuple[Sequence[Example], Sequence[Example]]
) -> Task:
    """A Task from the recipe's model section, the base's folder (None: from scratch), examples of train and valid.

    Raises InvalidInput: the base's tokenizer has no end or padding token, or fewer positions than max_tokens;
    ValueError: a base that is no encoder-decoder of ours, a shape that cannot be.
    """
    if base is None:
        texts = [text for row in examples[0] for text in (row.source, row.target)]
        tokenizer = train_seq2seq_bpe(texts, model.vocab_size, model.max_tokens)
        network = builder(model.kind, model.architecture)(
            seq2seq_lm.Shape(
                vocab_size=len(tokenizer),
                max_tokens=model.max_tokens,
                layers=model.layers,
                hidden=model.hidden,
                heads=model.heads,
                dropout=model.dropout,
                end_id=tokenizer.eos_token_id,
                padding_id=tokenizer.pad_token_id,
            )
        )
    else:
        tokenizer = AutoTokenizer.from_pretrained(base)
        network = seq2seq_lm.load(base)
        if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
            raise InvalidInput(f"The tokenizer of {base} has no end or no padding token; both are needed.")
        longest = usable_positions(network.config)
        if model.max_tokens > longest:
            raise InvalidInput(f"model.max_tokens {model.max_tokens}: the base has {longest} positions; lower it.")
    train, valid = (_rows(tokenizer, part, model.max_tokens) for part in examples)
    padding = network.config.pad_token_id

    def collate(batch: Sequence[Row]) -> Batch:
        """Sources (B, S) with their mask, targets (B, T): no loss at padding."""
        sources, targets = ([row[side] for row in batch] for side in ("source", "target"))
        ids = _padded(sources, padding)
        mask = _padded([[1] * len(source) for source in sources], 0)
        return {"input_ids": ids, "attention_mask": mask, "labels": _padded(targets, IGNORED)}

    best, higher_is_better = chosen_by(model.kind)
    return Task(
        model=network,
        tokenizer=tokenizer,
        train=train,
        valid=valid,
        length=lambda row: len(row["source"]) + len(row["target"]),
        collate=collate,
        best=best,
        higher_is_better=higher_is_better,
    )


def _rows(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], most: int) -> list[Row]:
    backend: Tokenizer = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    sides = {
        side: [encoding.ids for encoding in backend.encode_batch_fast([getattr(row, side) for row in examples])]
        for side in ("source", "target")
    }
    for side, texts in sides.items():
        if cut := sum(len(ids) > most for ids in texts):
            print(f"{cut} of {len(texts)} {side}s are longer than model.max_tokens {most} and are cut", flush=True)
    return [
        {"source": shortened(source, most), "target": shortened(target, most)}
        for source, target in zip(sides["source"], sides["target"], strict=True)
    ]


def _padded(rows: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows], dtype=torch.int64)
