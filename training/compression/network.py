"""The transformer inside an artifact of format torch: taken out, and put back when it has changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from models import bi_encoder, causal_lm
from models.registry import register_networks
from runtime.manifest import read_manifest
from training import sentence_folder

TOKENIZER_FILES = ("*tokenizer*", "vocab*", "merges.txt", "special_tokens*", "chat_template.jinja")


def load_network(source: Path) -> PreTrainedModel:
    """The classifier or the language model of the artifact `source`; of a bi-encoder, its encoder."""
    kind = read_manifest(source).kind
    if kind == "embedding":
        return bi_encoder.load(source).encoder
    if kind == "generation":
        return causal_lm.load(source)
    register_networks()
    network: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(source, dtype=torch.float32)
    return network


def write_network(network: PreTrainedModel, source: Path, directory: Path, *, tokenizer: bool = True) -> None:
    """Write `network` into the empty `directory`, with what stands beside it in `source`: head and tokenizer."""
    network.save_pretrained(directory)
    if sentence_folder.is_sentence_folder(source):
        sentence_folder.copy_modules(source, directory)
    for path in {path for pattern in TOKENIZER_FILES if tokenizer for path in source.glob(pattern)}:
        shutil.copyfile(path, directory / path.name)
    for path in directory.glob("*.safetensors"):
        path.chmod(0o644)  # they are written readable by their owner only, which no other user could serve


def transformer_in(model: nn.Module) -> PreTrainedModel:
    """The outermost transformer of what is trained, which may have things around it."""
    return next(module for module in model.modules() if isinstance(module, PreTrainedModel))
