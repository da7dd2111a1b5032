"""Which architectures there are. One is a line here and a file; nothing heavy is imported until it is built."""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Callable
from typing import Any

# kind -> architecture -> "module:function or class"
# matching:   build(base: Path, *, labels: Sequence[str], dropout: float) -> PreTrainedModel; of a pair-classifier, what
#             its own build says
# embedding:  load(folder: Path) -> models.bi_encoder.BiEncoder; its `build` makes one to train
# generation: build(shape: models.causal_lm.Shape) -> PreTrainedModel
# seq2seq:    build(shape: models.seq2seq_lm.Shape) -> PreTrainedModel
# encoder:    a models.sequence_encoder.SequenceEncoder, from nothing; for kinds matching and embedding
# pair head:  a layer of models.sequence_encoder, over the hidden states of a pair-classifier's encoder
ARCHITECTURES = {
    "matching": {"cross-encoder": "models.cross_encoder:build", "pair-classifier": "models.pair_classifier:build"},
    "embedding": {"bi-encoder": "models.bi_encoder:load"},
    "generation": {"gpt2": "models.causal_lm:build_gpt2", "llama": "models.causal_lm:build_llama"},
    "seq2seq": {"bart": "models.seq2seq_lm:build_bart", "t5": "models.seq2seq_lm:build_t5"},
    "encoder": {"bilstm": "models.bilstm:BiLSTMModel", "textcnn": "models.textcnn:TextCNNModel"},
    "pair head": {
        "bilstm": "models.bilstm:BiLSTM",
        "cnn": "models.textcnn:TextCNN",
        "interaction": "models.pair_classifier:NoLayer",
    },
}
PAIR_CLASSIFIER = "models.pair_classifier:PairClassifierForSequenceClassification"


class UnknownArchitecture(ValueError):
    """No such architecture for this kind; the message names the nearest one."""


def check(kind: str, architecture: str) -> str:
    """`architecture`, if `kind` has it. Raises UnknownArchitecture."""
    known = ARCHITECTURES[kind]
    if architecture in known:
        return architecture
    elsewhere = [other for other, names in ARCHITECTURES.items() if architecture in names]
    near = difflib.get_close_matches(architecture, known, n=1)
    if elsewhere:
        hint = f"it is one for {elsewhere[0]}."
    else:
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}."
    raise UnknownArchitecture(f"unknown {kind} architecture {architecture!r}; {hint}")


def builder(kind: str, architecture: str) -> Callable[..., Any]:
    """The function or class that builds it, imported now. Raises UnknownArchitecture."""
    found: Callable[..., Any] = _found(ARCHITECTURES[kind][check(kind, architecture)])
    return found


def _found(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


@functools.cache
def register_networks() -> None:
    """Make transformers' Auto classes know our own networks: whoever loads a folder with them calls this first."""
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

    narrow = importlib.import_module("models.narrow")
    networks: list[tuple[Any, Any]] = [(AutoModel, _found(place)) for place in ARCHITECTURES["encoder"].values()]
    networks += [(AutoModel, encoder) for encoder in narrow.ENCODERS]
    classifiers = [_found(PAIR_CLASSIFIER), *narrow.CLASSIFIERS]
    networks += [(AutoModelForSequenceClassification, classifier) for classifier in classifiers]
    for auto, network in networks:
        AutoConfig.register(network.config_class.model_type, network.config_class, exist_ok=True)
        auto.register(network.config_class, network, exist_ok=True)
