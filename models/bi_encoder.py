"""The bi-encoder: one text in, one vector out (Reimers and Gurevych, arXiv:1908.10084).

    ids (B, T) -> encoder (B, T, E) -> P poolings side by side (B, P * E) -> dense layers -> vector (B, D)

The vector is not normalised.

Read from a folder as sentence-transformers saves it: `modules.json` and a `config.json` a module. That library is not
needed, and what is not known here is refused by name. Not here: tokeniser, prompts, and the loss.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from models import encoder

MODULES_FILE = "modules.json"
# Modules must come in this order; a dense layer may be repeated, the last two may be missing. Normalize is left out of
# the network: cosine needs none, and who asks for unit vectors gets them from the route.
ORDER = ("Transformer", "Pooling", "Dense", "Normalize")
ACTIVATIONS = {each.__name__: each for each in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid)}


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    return _sum(hidden, mask) / _count(hidden, mask)


def _mean_sqrt_len(hidden: Tensor, mask: Tensor) -> Tensor:
    return _sum(hidden, mask) / _count(hidden, mask).sqrt()


def _weighted_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    # Later tokens weigh more: 1, 2, 3, … (Muennighoff, arXiv:2202.08904).
    weights = mask * torch.arange(1, hidden.shape[1] + 1, dtype=mask.dtype, device=mask.device)  # (B, T)
    return _mean(hidden, weights)


def _max(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.masked_fill(mask.unsqueeze(-1) == 0, float("-inf")).amax(1)


def _first(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden[:, 0]


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    last = (mask.sum(1) - 1).clamp(min=0)[:, None, None].expand(-1, 1, hidden.shape[2])
    return hidden.gather(1, last).squeeze(1)


def _sum(hidden: Tensor, weights: Tensor) -> Tensor:
    return (hidden * weights.unsqueeze(-1).to(hidden.dtype)).sum(1)


def _count(hidden: Tensor, weights: Tensor) -> Tensor:
    return weights.sum(1, keepdim=True).to(hidden.dtype).clamp(min=1e-9)


# name -> (B, T, E), (B, T) of 1 for a token and 0 for the padding behind it -> (B, E)
POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": _first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
# Until sentence-transformers 5.4 each pooling was a switch; several that are on stand side by side in this order.
SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True, slots=True)
class Layer:
    """A dense layer as its `config.json` has it; `folder` is below the model's and holds the weights."""

    folder: str
    inputs: int
    outputs: int
    bias: bool
    activation: str  # a key of ACTIVATIONS


@dataclass(frozen=True, slots=True)
class Head:
    """What comes behind the encoder. `normalized`: whether the folder asks for vectors of length 1."""

    poolings: tuple[str, ...]  # keys of POOLINGS
    layers: tuple[Layer, ...] = ()
    normalized: bool = False

    def dimensions(self, hidden: int) -> int:
        """D, behind an encoder of width `hidden`."""
        return self.layers[-1].outputs if self.layers else len(self.poolings) * hidden


class BiEncoder(nn.Module):
    """An encoder with its head."""

    def __init__(self, encoder: PreTrainedModel, poolings: tuple[str, ...], layers: nn.Sequential) -> None:
        super().__init__()
        self.encoder, self.layers = encoder, layers
        self.poolings = poolings

    @property
    def config(self) -> PretrainedConfig:
        """The encoder's."""
        return self.encoder.config

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """(B, T) each, padding behind the tokens -> (B, D)."""
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **segments).last_hidden_state
        pooled = torch.cat([POOLINGS[name](hidden, attention_mask) for name in self.poolings], dim=1)
        vectors: Tensor = self.layers(pooled)
        return vectors


def load(folder: Path) -> BiEncoder:
    """The bi-encoder in `folder`, in fp32 and evaluation mode. Raises ValueError: not one, or weights are missing."""
    head = read_head(folder)
    network = encoder.load(folder)
    layers = nn.Sequential()
    for layer in head.layers:
        layers.append(_linear(layer, folder / layer.folder)).append(ACTIVATIONS[layer.activation]())
    return BiEncoder(network, head.poolings, layers).eval()


def build(network: PreTrainedModel, *, pooling: str, dropout: float | None) -> BiEncoder:
    """A bi-encoder to train: an encoder with one pooling. `dropout`: of all layers in the encoder; None leaves them."""
    if dropout is not None:
        set_dropout(network, dropout)
    return BiEncoder(network, (pooling,), nn.Sequential())


def set_dropout(network: nn.Module, dropout: float) -> None:
    """Of all its layers."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout


def with_encoder(model: BiEncoder, network: PreTrainedModel) -> BiEncoder:
    """`model` on another encoder, and vectors of as many dimensions D: where the width differs, by a dense layer.

    That layer begins by handing the channels through; those that are missing are zero.
    """
    layers = model.layers
    if network.config.hidden_size != model.config.hidden_size:
        if len(layers) or len(model.poolings) > 1:
            raise ValueError("a bi-encoder with dense layers or several poolings keeps the width of its encoder.")
        wide = nn.Linear(network.config.hidden_size, model.config.hidden_size, bias=False)
        nn.init.eye_(wide.weight)
        layers = nn.Sequential(wide, nn.Identity())
    return BiEncoder(network, model.poolings, layers)


def save(model: BiEncoder, folder: Path) -> None:
    """Write the files that `load` reads."""
    model.encoder.save_pretrained(folder)
    write_head(folder, model.poolings, model.config.hidden_size)
    dense = [layer for layer in model.layers if isinstance(layer, nn.Linear)]
    activations = [layer for layer in model.layers if not isinstance(layer, nn.Linear)]
    for place, (linear, activation) in enumerate(zip(dense, activations, strict=True), 2):
        _write_dense(folder, f"{place}_Dense", linear, activation)


def read_head(folder: Path) -> Head:
    """What the folder's `modules.json` asks for. Raises ValueError naming what is not supported."""
    modules = _read_json(folder / MODULES_FILE, list)
    names = []
    for module in modules:
        package, _, name = str(module.get("type")).rpartition(".")
        if not package.startswith("sentence_transformers.") or name not in ORDER:
            raise ValueError(f"{folder} has a module {module.get('type')}; supported are {', '.join(ORDER)}.")
        names.append(name)
    if names[:2] != ["Transformer", "Pooling"] or names != sorted(names, key=ORDER.index) or names.count("Pooling") > 1:
        raise ValueError(f"{folder} has the modules {', '.join(names) or 'none'}; they must be {', '.join(ORDER)}.")
    if modules[0].get("path"):
        raise ValueError(
            f"{folder} keeps its encoder in {modules[0]['path']}; save it again with sentence-transformers 2 or later, "
            "which has it in the folder itself."
        )
    paths = {name: [str(m["path"]) for m, each in zip(modules, names, strict=True) if each == name] for name in ORDER}
    return Head(
        poolings=_read_poolings(folder / paths["Pooling"][0]),
        layers=tuple(_read_layer(folder, path) for path in paths["Dense"]),
        normalized="Normalize" in names,
    )


def write_head(folder: Path, poolings: Sequence[str], hidden: int) -> None:
    """Give the folder of a plain encoder of width `hidden` its poolings, in the files that `read_head` reads."""
    modules = [_module(0, "", "Transformer"), _module(1, "1_Pooling", "Pooling")]
    _write_json(folder / MODULES_FILE, modules)
    mode = poolings[0] if len(poolings) == 1 else list(poolings)
    _write_json(folder / "1_Pooling" / "config.json", {"embedding_dimension": hidden, "pooling_mode": mode})


def _write_dense(folder: Path, path: str, linear: nn.Linear, activation: nn.Module) -> None:
    """Add a dense layer after the modules that the folder has."""
    modules = _read_json(folder / MODULES_FILE, list)
    _write_json(folder / MODULES_FILE, [*modules, _module(len(modules), path, "Dense")])
    config = {
        "in_features": linear.in_features,
        "out_features": linear.out_features,
        "bias": linear.bias is not None,
        "activation_function": f"{type(activation).__module__}.{type(activation).__name__}",
    }
    _write_json(folder / path / "config.json", config)
    weights = {f"linear.{name}": value.contiguous() for name, value in linear.state_dict().items()}
    save_file(weights, folder / path / "model.safetensors")


def _module(index: int, path: str, name: str) -> dict[str, Any]:
    return {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def _read_poolings(folder: Path) -> tuple[str, ...]:
    config = _read_json(folder / "config.json", dict)
    given = config.get("pooling_mode")
    if given is None:
        # The known switches in their order, not the file's; then what is switched on and unknown.
        switches = [*SWITCHES, *(key for key in config if key.startswith("pooling_mode_") and key not in SWITCHES)]
        given = [SWITCHES.get(key, key) for key in switches if config.get(key)] or "mean"
    names = (given,) if isinstance(given, str) else tuple(given)
    for name in names:
        if name not in POOLINGS:
            raise ValueError(f"{folder} asks for the pooling {name!r}; supported are {', '.join(POOLINGS)}.")
    return names


def _read_layer(folder: Path, path: str) -> Layer:
    config = _read_json(folder / path / "config.json", dict)
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    package, _, name = activation.rpartition(".")
    if not package.startswith("torch.nn.") or name not in ACTIVATIONS:
        raise ValueError(f"{folder / path} has the activation {activation}; supported are {', '.join(ACTIVATIONS)}.")
    for key, value in {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}.items():
        if config.get(key, value) != value:
            raise ValueError(f"{folder / path} has {key} {config[key]!r}; only {value!r} is supported.")
    if config.get("use_residual"):
        raise ValueError(f"{folder / path} has use_residual, which is not supported.")
    return Layer(path, int(config["in_features"]), int(config["out_features"]), bool(config.get("bias", True)), name)


def _linear(layer: Layer, folder: Path) -> nn.Linear:
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise ValueError(f"{folder} has no model.safetensors; save the model with safe_serialization=True.")
    linear = nn.Linear(layer.inputs, layer.outputs, bias=layer.bias)
    try:
        linear.load_state_dict({name.removeprefix("linear."): value for name, value in load_file(weights).items()})
    except RuntimeError as error:
        raise ValueError(f"{weights} does not fit its config.json: {error}") from None
    return linear


def _read_json(path: Path, kind: type[Any]) -> Any:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, kind):
        raise ValueError(f"{path} holds no {'list' if kind is list else 'object'}.")
    return found
