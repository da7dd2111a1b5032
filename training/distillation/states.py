"""What a network computes on the way: the states between its layers, and the last layer's queries, keys and values."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from models.layers import layers_of

# The three linear layers of an attention, as the families of encoders call them.
PROJECTIONS = (("query", "key", "value"), ("q_lin", "k_lin", "v_lin"), ("q_proj", "k_proj", "v_proj"))


class States:
    """Watches a network; after each forward pass, `hidden` and `attention` are those of that pass."""

    def __init__(self, network: nn.Module, *, hidden: bool, attention: bool) -> None:
        """Raises ValueError: no stack of layers, or no attention in the last one where `attention` is asked for."""
        layers = layers_of(network)
        self.layers = len(layers)
        self.heads = int(getattr(network.config, "num_attention_heads", 1))
        self.hidden: list[Tensor] = []  # (B, T, E): the first layer's input, then each layer's output
        self.attention: dict[str, Tensor] = {}  # query, key and value (B, T, E) of the last layer
        if hidden:
            layers[0].register_forward_pre_hook(self._begin, with_kwargs=True)
            for layer in layers:
                layer.register_forward_hook(self._follow)
        if attention:
            for name, module in _projections(network, layers[-1]).items():
                module.register_forward_hook(self._keep(name))

    def _begin(self, _: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.hidden = [given[0] if given else named["hidden_states"]]

    def _follow(self, _: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        self.hidden.append(output[0] if isinstance(output, tuple) else output)

    def _keep(self, name: str) -> Any:
        def hook(_: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
            self.attention[name] = output

        return hook


def _projections(network: nn.Module, layer: nn.Module) -> dict[str, nn.Module]:
    modules = {name.rpartition(".")[2]: module for name, module in layer.named_modules()}
    for names in PROJECTIONS:
        if all(name in modules for name in names):
            return dict(zip(("query", "key", "value"), (modules[name] for name in names), strict=True))
    raise ValueError(
        f"The last layer of {type(network).__name__} ({network.config.model_type}) has no query, key and value "
        "projections: attention and values cannot be compared. Set both to 0."
    )
