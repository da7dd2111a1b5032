"""Which encoder-decoders have a graph writer: one is a line here and a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.bart_graph import BartDecoder, BartEncoder
from training.causal_graph import Array
from training.seq2seq_graph import SourceDecoder, SourceEncoder
from training.t5_graph import T5Decoder, T5Encoder

SEQ2SEQ_WRITERS: dict[str, tuple[type[SourceEncoder], type[SourceDecoder]]] = {
    "bart": (BartEncoder, BartDecoder),
    "t5": (T5Encoder, T5Decoder),
}


def write_seq2seq_graphs(config: Any, state: Mapping[str, Array], encoder: Path, decoder: Path) -> int:
    """Write the fp32 graphs of a model, from its transformers configuration and its weights.

    Returns the head size of the decoder's caches, which may be padded. Raises ValueError for a setting that the graphs
    do not carry.
    """
    encoder_type, decoder_type = SEQ2SEQ_WRITERS[config.model_type]
    encoder_type(config, state).write(encoder)
    return decoder_type(config, state).write(decoder)
