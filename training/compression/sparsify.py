"""Unstructured pruning: weights become zeros, shapes stay. It pays only where sparse weights are read as such: 2:4 on
NVIDIA GPUs since Ampere. A CPU is no faster with it, and a file keeps its size until something packs it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from runtime.manifest import Kind
from training.compression.recovery import Reduction
from training.compression.step import Context

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class Sparsify(Reduction):
    """What the steps of this module share: weights become zeros, and stay zeros in the training that follows."""

    kinds: ClassVar[tuple[Kind, ...]] = ("matching", "embedding", "generation")

    @abstractmethod
    def zero(self, network: nn.Module) -> None:
        """Set weights of the layers' matrices to zero. Raises ValueError: a network that this cannot be done with."""

    def reduce(
        self, network: PreTrainedModel, source: Path, context: Context
    ) -> tuple[PreTrainedModel, dict[str, Any]]:
        """See Reduction."""
        self.zero(network)
        return network, {"zeros": round(share_of_zeros(network), 4)}

    def hold(self, network: nn.Module) -> None:
        """Weights that are zero get no gradient: AdamW leaves them zero, weight decay included."""
        for module in matrices(network):
            weight: Any = module.weight
            weight.register_hook(lambda gradient, mask=(weight != 0): gradient * mask)


class Magnitude(Sparsify):
    """The smallest weights of all layers' matrices, wherever they are (Han et al., arXiv:1506.02626)."""

    step: Literal["magnitude"] = "magnitude"
    sparsity: float = Field(gt=0, lt=1)  # share of the weights that become zero

    def zero(self, network: nn.Module) -> None:
        """See Sparsify."""
        from torch.nn.utils import prune

        parameters = [(module, "weight") for module in matrices(network)]
        prune.global_unstructured(parameters, prune.L1Unstructured, amount=self.sparsity)
        for module, name in parameters:
            prune.remove(module, name)


class Sparse24(Sparsify):
    """The two smaller of every four weights in a row: what sparse tensor cores take (arXiv:2104.08378)."""

    step: Literal["sparse-2-4"] = "sparse-2-4"

    def zero(self, network: nn.Module) -> None:
        """See Sparsify."""
        import torch
        from transformers.pytorch_utils import Conv1D

        with torch.no_grad():
            for module in matrices(network):
                # Rows (out, in): of Conv1D the transposed weight.
                weight = module.weight.T if isinstance(module, Conv1D) else module.weight
                if weight.shape[1] % 4:
                    raise ValueError(f"a matrix has {weight.shape[1]} inputs, which must be a multiple of 4.")
                fours = weight.reshape(len(weight), -1, 4)
                smaller = fours.abs().argsort(-1)[..., :2]
                weight.copy_(fours.scatter(-1, smaller, 0.0).reshape(weight.shape))


def matrices(network: nn.Module) -> Iterator[Any]:
    """The linear layers inside the network's layers: where the computing is; not embeddings, poolers, heads."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    from models.layers import layers_of

    for layer in layers_of(network):
        yield from (module for module in layer.modules() if isinstance(module, nn.Linear | Conv1D))


def share_of_zeros(network: nn.Module) -> float:
    """Of the weights of `matrices`."""
    weights = [module.weight for module in matrices(network)]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
