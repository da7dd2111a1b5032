"""Cuts parts out of a trained transformer: layers, attention heads, neurons, rows of its vocabulary.

Each function returns a new model, built from a configuration that says the new shape, so that it saves, reloads and
exports as any other; the given one stays as it is. Not here: which parts are worth keeping
(training/compression), and the tokenizer that belongs to a vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from models.layers import layer_stack, layers_of, layout_of, neurons_of
from models.narrow import narrow_class, narrow_config
from models.positions import COUNTED_FROM_PADDING

PER_LAYER = ("layer_types", "layer_heads")  # lists in configurations with a value for each layer


def keep_layers(model: PreTrainedModel, indices: Sequence[int]) -> PreTrainedModel:
    """A model with only the layers `indices`, in that order; embeddings and heads stay.

    Raises ValueError: indices that are none, repeated or not layers of the model, or a model without one stack of
    layers (ALBERT has one layer for all, an encoder-decoder two stacks).
    """
    stack, layers = layer_stack(model)
    if not indices or len(set(indices)) < len(indices) or not set(indices) <= set(range(layers)):
        raise ValueError(f"layers {list(indices)}: give different ones of 0 … {layers - 1}, at least one.")
    config = copy.deepcopy(model.config)
    inner = _inner(config)
    inner.num_hidden_layers = len(indices)
    for name in PER_LAYER:
        if getattr(inner, name, None):
            setattr(inner, name, [getattr(inner, name)[index] for index in indices])
    place = {str(old): new for new, old in enumerate(indices)}
    state = {}
    for name, value in model.state_dict().items():
        if not name.startswith(f"{stack}."):
            state[name] = value
            continue
        index, _, rest = name.removeprefix(f"{stack}.").partition(".")
        if index in place:
            state[f"{stack}.{place[index]}.{rest}"] = value
    return _rebuilt(model, config, state)


def keep_neurons(model: PreTrainedModel, kept: Sequence[Sequence[int]]) -> PreTrainedModel:
    """A model whose feed-forward parts have only the neurons `kept[layer]`, as many in each layer.

    Raises ValueError: layers of an unknown family, numbers that differ, or indices that are none, repeated or too high.
    """
    layout = layout_of(model)
    _check(kept, layer_stack(model)[1], neurons_of(model), "neurons")
    if len({len(each) for each in kept}) > 1:
        raise ValueError(f"neurons: {[len(each) for each in kept]} of the layers; each layer must keep as many.")
    config = copy.deepcopy(model.config)
    setattr(_inner(config), layout.width, len(kept[0]))
    columns = [torch.tensor(each) for each in kept]
    return _rebuilt(model, config, _selected(model, layout.raised, layout.lowered, columns))


def keep_heads(model: PreTrainedModel, kept: Sequence[Sequence[int]]) -> PreTrainedModel:
    """A model whose layers attend with only the heads `kept[layer]`; layers may keep different numbers of them.

    Its class is one of models/narrow.py, or has such an encoder. Raises ValueError: a family that has none there, or
    indices that are none, repeated or too high.
    """
    config = copy.deepcopy(model.config)
    inner = _inner(config)
    encoder = model if inner is config else model.base_model
    kind = narrow_class(type(encoder))
    before = getattr(inner, "layer_heads", None) or [inner.num_attention_heads] * inner.num_hidden_layers
    _check(kept, len(before), before, "heads")
    layout = layout_of(model)
    size = inner.hidden_size // inner.num_attention_heads
    columns = [(torch.tensor(each)[:, None] * size + torch.arange(size)).flatten() for each in kept]
    narrowed = narrow_config(inner, kind, [len(each) for each in kept])
    state = _selected(model, layout.projections, layout.attended, columns)
    if encoder is model:
        return _rebuilt(model, narrowed, state, kind)
    config.encoder = narrowed
    return _rebuilt(model, config, state)


def truncate_width(model: PreTrainedModel, **sizes: int) -> PreTrainedModel:
    """A model with `sizes` (hidden_size, num_attention_heads, intermediate_size) in place of its own, made of the
    leading rows and columns of each weight.

    It computes something else and has to be trained; what it keeps of the old one is a start. Raises ValueError: a size
    that the configuration does not have or that grows, or a width that its heads do not divide.
    """
    config = copy.deepcopy(model.config)
    for name, size in sizes.items():
        old = getattr(config, name, None)
        if not isinstance(old, int) or not 1 <= size <= old:
            raise ValueError(
                f"{name} {size}: {config.model_type} has {old or 'no such size'}, and can only become narrower."
            )
        setattr(config, name, size)
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(f"hidden_size {config.hidden_size} must be a multiple of {config.num_attention_heads} heads.")
    state = model.state_dict()
    shapes = {name: value.shape for name, value in type(model)(config).state_dict().items()}
    if new := sorted(shapes.keys() - state.keys()):
        raise ValueError(f"{config.model_type} of these sizes needs {new[0]}, which the model does not have.")
    return _rebuilt(model, config, {name: state[name][tuple(map(slice, shape))] for name, shape in shapes.items()})


def trim_vocabulary(model: PreTrainedModel, kept_ids: Sequence[int]) -> PreTrainedModel:
    """A model whose token i is the given one's `kept_ids[i]`: smaller embeddings, and output layer where there is one.

    Special ids of the configurations follow their tokens. Raises ValueError: ids that are repeated or not in the
    vocabulary, a special token that is not kept, or a padding token that moves where positions are counted from it.
    """
    size = model.get_input_embeddings().weight.shape[0]
    if len(set(kept_ids)) < len(kept_ids) or not set(kept_ids) <= set(range(size)):
        raise ValueError(f"kept_ids: {len(kept_ids)} ids, which must all differ and be below {size}.")
    new_id = {old: new for new, old in enumerate(kept_ids)}
    config = copy.deepcopy(model.config)
    for each in reversed(_configs(config)):
        _remap(each, new_id, size)
    _inner(config).vocab_size = len(kept_ids)
    rows = torch.tensor(kept_ids)
    tables = {tensor.data_ptr() for tensor in _vocabulary_tensors(model)}
    state = {name: value[rows] if value.data_ptr() in tables else value for name, value in model.state_dict().items()}
    trimmed = _rebuilt(model, config, state)
    if model.can_generate():
        trimmed.generation_config = copy.deepcopy(model.generation_config)
        _remap(trimmed.generation_config, new_id, size)
    return trimmed


def _inner(config: PretrainedConfig) -> PretrainedConfig:
    """The configuration of the encoder, where a network has one inside."""
    inner: PretrainedConfig = getattr(config, "encoder", config)
    return inner


def _check(kept: Sequence[Sequence[int]], layers: int, limits: int | Sequence[int], what: str) -> None:
    """Raises ValueError where `kept` does not choose at least one of so many in each of the layers."""
    limits = [limits] * layers if isinstance(limits, int) else limits
    if len(kept) != layers:
        raise ValueError(f"{what}: {len(kept)} lists for {layers} layers.")
    for layer, (each, limit) in enumerate(zip(kept, limits, strict=True)):
        if not each or len(set(each)) < len(each) or not set(each) <= set(range(limit)):
            raise ValueError(f"{what} {list(each)} of layer {layer}: give different ones of 0 … {limit - 1}.")


def _selected(
    model: PreTrainedModel, sources: Sequence[str], target: str, columns: Sequence[Tensor]
) -> dict[str, Tensor]:
    """The state, the outputs of the linear layers `sources` and the inputs of `target` cut to `columns[layer]`."""
    state = dict(model.state_dict())
    stack, _ = layer_stack(model)
    for index, (layer, chosen) in enumerate(zip(layers_of(model), columns, strict=True)):
        for path in (*sources, target):
            name = f"{stack}.{index}.{path}"
            # transformers' Conv1D has its weights lie (in, out), a Linear (out, in).
            outputs = int(isinstance(layer.get_submodule(path), Conv1D))
            axis = 1 - outputs if path == target else outputs
            state[f"{name}.weight"] = state[f"{name}.weight"].index_select(axis, chosen)
            if path != target and f"{name}.bias" in state:
                state[f"{name}.bias"] = state[f"{name}.bias"][chosen]
    return state


def _vocabulary_tensors(model: PreTrainedModel) -> list[Tensor]:
    """What has a row for each token: embeddings, output layer, its bias. Tied ones share their memory."""
    tensors = [model.get_input_embeddings().weight]
    output = model.get_output_embeddings()
    if output is not None:
        tensors += [output.weight, *([output.bias] if output.bias is not None else [])]
    return tensors


def special_ids(model: PreTrainedModel) -> set[int]:
    """The ids that its configurations name and that are in its vocabulary: padding, end, separator, …"""
    size = model.get_input_embeddings().weight.shape[0]
    configs = [*_configs(model.config), *([model.generation_config] if model.can_generate() else [])]
    return {index for config in configs for _, ids in _named_ids(config) for index in ids if 0 <= index < size}


def _configs(config: PretrainedConfig) -> list[PretrainedConfig]:
    """The configuration, and that of the encoder inside."""
    inner = _inner(config)
    return [config] if inner is config else [config, inner]


def _named_ids(config: Any) -> Iterator[tuple[str, list[int]]]:
    """The settings of a configuration that are ids of tokens."""
    for name, value in config.to_dict().items():
        if name.endswith(("_token_id", "_token_ids")) and value is not None:
            yield name, value if isinstance(value, list) else [value]


def _remap(config: Any, new_id: Mapping[int, int], size: int) -> None:
    """Give every special id in `config` its new value. Raises ValueError for one that is not kept, or must not move."""
    for name, ids in list(_named_ids(config)):
        # Ids outside the vocabulary are defaults of the library that mean nothing here.
        lost = [token for token in ids if token not in new_id and 0 <= token < size]
        if lost:
            raise ValueError(f"kept_ids lacks {lost[0]}, the model's {name}.")
        moved = [new_id.get(token, token) for token in ids]
        if name == "pad_token_id" and moved != ids and getattr(config, "model_type", "") in COUNTED_FROM_PADDING:
            raise ValueError(f"{config.model_type} counts positions from the padding token's id; keep it at {ids[0]}.")
        setattr(config, name, moved if isinstance(getattr(config, name), list) else moved[0])


def _rebuilt(
    model: PreTrainedModel,
    config: PretrainedConfig,
    state: dict[str, Tensor],
    kind: type[PreTrainedModel] | None = None,
) -> PreTrainedModel:
    """A model of class `kind`, or the same class, from `config` and `state`, by the way that a folder is loaded."""
    copied = {name: value.clone() for name, value in state.items()}  # loading takes tensors as they are
    made, info = (kind or type(model)).from_pretrained(
        None, config=config, state_dict=copied, dtype=model.dtype, output_loading_info=True
    )
    if info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"]:
        raise ValueError(f"{type(model).__name__} cannot be rebuilt with the new shape: {info}")
    rebuilt: PreTrainedModel = made.to(model.device).train(model.training)
    return rebuilt
