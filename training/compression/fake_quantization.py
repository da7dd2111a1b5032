"""Networks that compute in fp32 as their dynamic int8 graph will: what rounding loses there is lost here too, and
gradients pass as if nothing were (straight-through, Bengio et al., arXiv:1308.3432).

The scales are those of training/compression/quantization.py and of ONNX's DynamicQuantizeLinear: weights of linear
layers s8 with a scale an output, their inputs u8 with a scale and a zero point a tensor, embeddings u8 a table.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def quantize_as_int8(network: nn.Module) -> int:
    """Make `network` compute so, for good; parameters and their names stay. Returns how many layers do."""
    found = 0
    for module in network.modules():
        forward = next((way for kind, way in _FORWARD.items() if isinstance(module, kind)), None)
        if forward is not None:
            module.forward = partial(forward, module)
            found += 1
    return found


def round_weight(weight: Tensor) -> Tensor:
    """(out, in), rounded to multiples of each row's largest absolute value / 127."""
    with torch.no_grad():
        scale = _positive(weight.abs().amax(-1, keepdim=True) / 127)
        rounded = (weight / scale).round() * scale
    return weight + (rounded - weight).detach()


def round_activation(x: Tensor) -> Tensor:
    """Rounded to 256 levels from the smallest to the largest value, of which one is 0."""
    with torch.no_grad():
        low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
        scale = _positive((high - low) / 255)
        zero = (-low / scale).round()
        rounded = (((x / scale).round() + zero).clamp(0, 255) - zero) * scale
    return x + (rounded - x).detach()


def _positive(scale: Tensor) -> Tensor:
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _linear(module: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(round_activation(x), round_weight(module.weight), module.bias)


def _embedding(module: nn.Embedding, ids: Tensor) -> Tensor:
    return F.embedding(ids, round_activation(module.weight), module.padding_idx)


_FORWARD: dict[type[nn.Module], Callable[..., Any]] = {nn.Linear: _linear, nn.Embedding: _embedding}
