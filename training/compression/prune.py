"""Structured pruning: layers, heads and neurons that matter least are taken out, and the graph gets smaller."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from runtime.manifest import Kind
from training.compression.recovery import Reduction
from training.compression.step import Context

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from training.compression.saliency import Part

NEURON_MULTIPLE = 8  # widths that fill the registers of a CPU; what is kept is rounded up to it


class Prune(Reduction):
    """What the steps of this module share: the importance of parts, measured on the data."""

    rows: int = Field(default=512, gt=0)  # of train, by which importance is measured

    def importance(self, part: Part, source: Path, context: Context) -> list[Tensor]:
        """Of each layer's parts; see saliency.py."""
        from training.compression.fine_tuning import artifact_task
        from training.compression.saliency import saliency

        train = self.recipe(context).train
        return saliency(artifact_task(source, context, train), part, self.rows, train.batch_size, context.seed)


class Layers(Prune):
    """Whole layers: the cheapest to run without, and the dearest to lose."""

    kinds: ClassVar[tuple[Kind, ...]] = ("matching", "embedding", "generation")

    step: Literal["layers"] = "layers"
    keep: int = Field(gt=0)
    # Every n-th, the last one included; the most important; or the first, on which a new training builds best.
    choose: Literal["spread", "saliency", "first"] = "spread"

    def reduce(
        self, network: PreTrainedModel, source: Path, context: Context
    ) -> tuple[PreTrainedModel, dict[str, Any]]:
        """See Reduction."""
        from models.layers import layer_stack
        from models.surgery import keep_layers

        _, there = layer_stack(network)
        if self.keep >= there:
            raise ValueError(f"keep {self.keep}: the model has {there} layers; keep fewer.")
        if self.choose == "spread":
            kept = [(index + 1) * there // self.keep - 1 for index in range(self.keep)]
        elif self.choose == "first":
            kept = list(range(self.keep))
        else:
            scores = [float(each) for each in self.importance("layers", source, context)]
            kept = sorted(sorted(range(there), key=scores.__getitem__)[there - self.keep :])
        return keep_layers(network, kept), {"kept": kept, "of": there}


class Heads(Prune):
    """Attention heads, wherever they matter least; every layer keeps one at least."""

    step: Literal["heads"] = "heads"
    share: float = Field(gt=0, lt=1)  # of all heads, to be taken out

    def reduce(
        self, network: PreTrainedModel, source: Path, context: Context
    ) -> tuple[PreTrainedModel, dict[str, Any]]:
        """See Reduction."""
        from models.surgery import keep_heads

        # Layers are on different scales; each is brought to length 1 before heads are compared (Michel et al.).
        scores = [layer / layer.norm().clamp(min=1e-12) for layer in self.importance("heads", source, context)]
        kept = heads_to_keep([layer.tolist() for layer in scores], self.share)
        return keep_heads(network, kept), {"kept": kept, "of": [len(layer) for layer in scores]}


class Ffn(Prune):
    """Neurons of the feed-forward parts, as many in every layer, rounded up to a multiple of 8."""

    kinds: ClassVar[tuple[Kind, ...]] = ("matching", "embedding", "generation")

    step: Literal["ffn"] = "ffn"
    share: float = Field(gt=0, lt=1)  # of each layer's neurons, to be taken out

    def reduce(
        self, network: PreTrainedModel, source: Path, context: Context
    ) -> tuple[PreTrainedModel, dict[str, Any]]:
        """See Reduction."""
        from models.layers import neurons_of
        from models.surgery import keep_neurons

        there = neurons_of(network)
        width = min(there, -(-round(there * (1 - self.share)) // NEURON_MULTIPLE) * NEURON_MULTIPLE)
        scores = self.importance("neurons", source, context)
        kept = [sorted(layer.argsort(descending=True)[:width].tolist()) for layer in scores]
        return keep_neurons(network, kept), {"width": width, "of": there}


def heads_to_keep(scores: list[list[float]], share: float) -> list[list[int]]:
    """Of each layer the heads that stay when `share` of all is taken out, least score first; one stays in any case."""
    kept = [list(range(len(layer))) for layer in scores]
    ranked = sorted((score, layer, head) for layer, each in enumerate(scores) for head, score in enumerate(each))
    left = round(share * len(ranked))
    for _, layer, head in ranked:
        if left and len(kept[layer]) > 1:
            kept[layer].remove(head)
            left -= 1
    return kept
