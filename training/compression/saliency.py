"""What a trained network loses, to first order, without one of its parts: |gate x d loss / d gate| at a gate of 1.

A gate multiplies what a head, a neuron or a layer adds; its gradient is what the loss would change if it closed. The
absolute value is taken for each row by itself, because rows that need a part and rows that it harms would cancel out,
and summed over rows of train. Heads: Michel et al., arXiv:1905.10650. Neurons: Molchanov et al., arXiv:1611.06440.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.layers import layers_of, layout_of, neurons_of
from training.batches import plan_batches
from training.compression.network import transformer_in
from training.task import Batch, Task

Part = Literal["layers", "heads", "neurons"]


def saliency(task: Task, part: Part, rows: int, batch_size: int, seed: int) -> list[Tensor]:
    """The importance of every part of `task.model`: for each layer (units,), where a layer itself is one unit.

    Raises ValueError: a network whose parts are not known (models/layers.py).
    """
    network = transformer_in(task.model)
    task.model.eval()
    task.model.requires_grad_(False)
    gates: list[Tensor] = []
    totals: list[Tensor] = []
    with ExitStack() as hooks:
        for handle in _gated(network, part, gates):
            hooks.callback(handle.remove)
        for batch in _batches(task, rows, batch_size, seed):
            gates.clear()
            _loss(task, batch).backward()
            found = [gate.grad.abs().sum(0) for gate in gates if gate.grad is not None]
            totals = [a + b for a, b in zip(totals, found, strict=True)] if totals else found
    return totals


def _gated(network: PreTrainedModel, part: Part, gates: list[Tensor]) -> Iterator[Any]:
    """Put gates into the network; `gates` gets those of each pass, (B, units) each. Yields the handles."""

    def gate(batch: int, units: int) -> Tensor:
        gates.append(torch.ones(batch, units, requires_grad=True))
        return gates[-1]

    def before(units: int) -> Callable[..., Any]:
        def close(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x = given[0]  # (B, T, units * size)
            return ((x.unflatten(-1, (units, -1)) * gate(len(x), units)[:, None, :, None]).flatten(-2), *given[1:])

        return close

    def around(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        x = given[0] if given else named["hidden_states"]
        y = output[0] if isinstance(output, tuple) else output
        y = x + gate(len(x), 1)[:, :, None] * (y - x)
        return (y, *output[1:]) if isinstance(output, tuple) else y

    layers = layers_of(network)
    if part == "layers":
        for layer in layers:
            yield layer.register_forward_hook(around, with_kwargs=True)
        return
    layout = layout_of(network)
    for layer, heads in zip(layers, heads_of(network), strict=True):
        path, units = (layout.attended, heads) if part == "heads" else (layout.lowered, neurons_of(network))
        yield layer.get_submodule(path).register_forward_pre_hook(before(units))


def heads_of(network: PreTrainedModel) -> list[int]:
    """How many heads each layer has."""
    config = getattr(network.config, "encoder", network.config)
    return list(getattr(config, "layer_heads", None) or [config.num_attention_heads] * config.num_hidden_layers)


def _batches(task: Task, rows: int, batch_size: int, seed: int) -> Iterator[Batch]:
    """The first batches of a training with `seed` that have so many rows."""
    lengths = [task.length(row) for row in task.train]
    steps = -(-min(rows, len(lengths)) // batch_size)
    for batch in plan_batches(lengths, batch_size, steps, seed, task.groups):
        yield task.collate([task.train[index] for index in batch])


def _loss(task: Task, batch: Batch) -> Tensor:
    loss = task.loss(task.model, batch)[0] if task.loss else task.model(**batch).loss
    assert isinstance(loss, Tensor)
    return loss
