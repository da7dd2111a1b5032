"""Models and data that train in a second."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from runtime.backends.fake import END, VOCABULARY, byte_tokenizer

WORDS = ("card", "pin", "rate", "cash", "top", "fee", "app", "bank", "loan", "note")


def encoder_folder(folder: Path, **changed: Any) -> Path:
    """A random two-layer BERT with a byte tokenizer, as transformers saves it."""
    torch.manual_seed(3)
    settings = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    settings |= {"vocab_size": VOCABULARY, "max_position_embeddings": 64}
    BertModel(BertConfig(**(settings | changed))).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(pairs=True)).save_pretrained(folder)
    return folder


def seq2seq_folder(folder: Path, forced: int | None = None, **changed: Any) -> Path:
    """A random BART with a byte tokenizer and 64 positions, as transformers saves it; `forced`: what each text begins
    with."""
    settings = {"d_model": 48, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 96, "decoder_ffn_dim": 80}
    settings |= {"encoder_attention_heads": 6, "decoder_attention_heads": 4, "max_position_embeddings": 64}
    settings |= {"vocab_size": VOCABULARY, "bos_token_id": END + 1, "eos_token_id": END, "pad_token_id": 0}
    ends = {"decoder_start_token_id": END, "forced_eos_token_id": None}
    torch.manual_seed(5)
    model = BartForConditionalGeneration(BartConfig(**(settings | ends | changed)))
    torch.nn.init.normal_(model.final_logits_bias)
    model.generation_config.forced_bos_token_id = forced
    return _saved(model, folder)


def t5_folder(folder: Path, **changed: Any) -> Path:
    """A random T5 with a byte tokenizer, whose distances are all alike from 16 on."""
    settings = {"d_model": 48, "d_kv": 12, "d_ff": 96, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4}
    settings |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 16}
    settings |= {"vocab_size": VOCABULARY, "eos_token_id": END, "decoder_start_token_id": END}
    torch.manual_seed(5)
    return _saved(T5ForConditionalGeneration(T5Config(**(settings | changed))), folder)


def _saved(model: PreTrainedModel, folder: Path) -> Path:
    """All weights drawn anew: fresh biases and norms are zeros and ones, which would hide a wrong graph."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=1 / parameter.shape[1] ** 0.5)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(pairs=False), eos_token="<end>")
    tokenizer.save_pretrained(folder)
    return folder


def pair_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Every other pair a match; seven of eight of them say so with a "!", the others with a "?": soon learned."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        same = number % 2
        mark = "?!"[same if chance.random() < 7 / 8 else 1 - same]
        a, b = (f"{chance.choice(WORDS)} {chance.randrange(10**6)}" for _ in range(2))
        rows.append({"text_a": a, "text_b": b + mark * chance.randrange(1, 8), "label": same})
    return rows


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
