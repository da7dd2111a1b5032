"""Which architectures there are. One is a line here and a builder; nothing heavy is imported until it is built."""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Callable
from typing import Any

# kind -> architecture -> "module:function"
# matching:   build(base: Path, *, labels: Sequence[str], dropout: float) -> PreTrainedModel
# embedding:  load(folder: Path) -> models.bi_encoder.BiEncoder; published, not trained here
# generation: build(shape: models.causal_lm.Shape) -> PreTrainedModel
ARCHITECTURES = {
    "matching": {"cross-encoder": "models.cross_encoder:build"},
    "embedding": {"bi-encoder": "models.bi_encoder:load"},
    "generation": {"gpt2": "models.causal_lm:build_gpt2", "llama": "models.causal_lm:build_llama"},
}


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
    """The function that builds it, imported now. Raises UnknownArchitecture."""
    module, _, function = ARCHITECTURES[kind][check(kind, architecture)].partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


@functools.cache
def register_networks() -> None:
    """Make transformers' Auto classes know our own networks: whoever loads a folder with them calls this first."""
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

    narrow = importlib.import_module("models.narrow")
    networks: list[tuple[Any, Any]] = [(AutoModel, encoder) for encoder in narrow.ENCODERS]
    networks += [(AutoModelForSequenceClassification, classifier) for classifier in narrow.CLASSIFIERS]
    for auto, network in networks:
        AutoConfig.register(network.config_class.model_type, network.config_class, exist_ok=True)
        auto.register(network.config_class, network, exist_ok=True)
