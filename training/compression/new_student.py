"""Makes a student that starts from nothing, a BiLSTM or a TextCNN, to answer what its source answers.

A new encoder is a layer or two, whose learning goes by what its words already mean: they begin as the source's.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel

from models import bi_encoder, encoder, pair_classifier
from models.bi_encoder import BiEncoder
from runtime.manifest import Manifest, read_manifest
from runtime.text import load_tokenizer
from training.compression.network import load_network
from training.model_section import NewEncoder
from training.vocabulary import pair_frame, train_encoder_bpe

POOLINGS = ("mean", "max")  # of a bi-encoder: what a pair classifier reads of each text too


def write_student(
    source: Path, directory: Path, shape: NewEncoder, texts: list[str] | None, *, words: bool
) -> dict[str, int]:
    """Write a new network of the kind of the artifact `source`, with its tokenizer, into the empty `directory`.

    `texts`: to make a tokenizer of its own from; None: the source's. `words`: word embeddings begin as the source's
    (its own tokenizer's begin at random). Draws from torch's random state. Returns what was made.
    """
    manifest, old = read_manifest(source), load_network(source)
    if texts is None:
        tokenizer = AutoTokenizer.from_pretrained(source)
    else:
        tokenizer = train_encoder_bpe(texts, shape.vocab_size, manifest.max_tokens)
    tokenizer.save_pretrained(directory)
    known = old.get_input_embeddings().weight.detach()  # (V, W)
    network = encoder.create(
        shape.architecture,
        vocab_size=len(tokenizer) if texts else len(known),
        embedding_size=shape.embedding,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        hidden_dropout_prob=shape.dropout,
        max_position_embeddings=manifest.max_tokens,
        pad_token_id=tokenizer.pad_token_id,
    )
    if words and texts is None:
        begin_words(network, known)
    if manifest.kind == "embedding":
        assert manifest.dimensions is not None  # of every bi-encoder
        bi_encoder.save(_bi_encoder(network, manifest.dimensions), directory)
    else:
        _pair_classifier(network, manifest, directory).save_pretrained(directory)
    return {"tokens": network.config.vocab_size, "weights": sum(each.numel() for each in network.parameters())}


@torch.no_grad()
def begin_words(network: PreTrainedModel, known: Tensor) -> None:
    """Give the word embeddings (V, W) of `network` the principal components of `known` (V, E), in their own spread.

    Where W is larger, the columns that E has not stay as they are.
    """
    weight = network.get_input_embeddings().weight
    centred = known - known.mean(0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)  # the largest last
    found = centred @ vectors.flip(1)[:, : weight.shape[1]]
    weight[:, : found.shape[1]] = found * (network.config.initializer_range / found.std())
    if network.config.pad_token_id is not None:
        weight[network.config.pad_token_id] = 0


def _bi_encoder(network: PreTrainedModel, dimensions: int) -> BiEncoder:
    """A dense layer behind: what a convolution gives is never negative, and a vector may be."""
    dense = nn.Linear(len(POOLINGS) * network.config.hidden_size, dimensions)
    return BiEncoder(network, POOLINGS, nn.Sequential(dense, nn.Identity()))


def _pair_classifier(network: PreTrainedModel, manifest: Manifest, directory: Path) -> PreTrainedModel:
    return pair_classifier.build(
        network,
        head="interaction",
        head_hidden=network.config.hidden_size,
        frame=pair_frame(load_tokenizer(directory / "tokenizer.json")),
        labels=manifest.labels,
        dropout=network.config.hidden_dropout_prob,
    )
