"""Cuts parts out of a trained transformer: whole layers, rows of its vocabulary.

Each function returns a new model of the same class, built from a configuration that says the new shape, so that it
saves, reloads and exports as any other; the given one stays as it is. Not here: which parts are worth keeping
(training/compression), and the tokenizer that belongs to a vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from models.positions import COUNTED_FROM_PADDING


def keep_layers(model: PreTrainedModel, indices: Sequence[int]) -> PreTrainedModel:
    """A model with only the layers `indices`, in that order; embeddings and heads stay.

    Raises ValueError: indices that are none, repeated or not layers of the model, or a model without one stack of
    layers (ALBERT has one layer for all, an encoder-decoder two stacks).
    """
    stack, layers = layer_stack(model)
    if not indices or len(set(indices)) < len(indices) or not set(indices) <= set(range(layers)):
        raise ValueError(f"layers {list(indices)}: give different ones of 0 … {layers - 1}, at least one.")
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(indices)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[index] for index in indices]
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


def layer_stack(model: PreTrainedModel) -> tuple[str, int]:
    """The name of the module list that holds a model's layers, and how many they are. Raises ValueError: not one."""
    layers = model.config.num_hidden_layers
    names: list[str] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{other}.") for other in names)
        if isinstance(module, nn.ModuleList) and len(module) == layers and not inside:
            names.append(name)
    if len(names) != 1:
        raise ValueError(
            f"{type(model).__name__} has {len(names) or 'no'} stacks of {layers} layers of their own; layers can be "
            "taken out of models with one."
        )
    return names[0], layers


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
    config.vocab_size = len(kept_ids)
    _remap(config, new_id, size)
    moved = config.pad_token_id != model.config.pad_token_id
    if config.model_type in COUNTED_FROM_PADDING and moved:
        raise ValueError(
            f"{config.model_type} counts positions from the padding token's id; keep it at {model.config.pad_token_id}."
        )
    rows = torch.tensor(kept_ids)
    tables = {tensor.data_ptr() for tensor in _vocabulary_tensors(model)}
    state = {name: value[rows] if value.data_ptr() in tables else value for name, value in model.state_dict().items()}
    trimmed = _rebuilt(model, config, state)
    if model.can_generate():
        trimmed.generation_config = copy.deepcopy(model.generation_config)
        _remap(trimmed.generation_config, new_id, size)
    return trimmed


def _vocabulary_tensors(model: PreTrainedModel) -> list[Tensor]:
    """What has a row for each token: embeddings, output layer, its bias. Tied ones share their memory."""
    tensors = [model.get_input_embeddings().weight]
    output = model.get_output_embeddings()
    if output is not None:
        tensors += [output.weight, *([output.bias] if output.bias is not None else [])]
    return tensors


def _remap(config: Any, new_id: Mapping[int, int], size: int) -> None:
    """Give every special id in `config` its new value. Raises ValueError for one that is not kept."""
    for name, value in config.to_dict().items():
        if not name.endswith("_token_id") or value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        # Ids outside the vocabulary are defaults of the library that mean nothing here.
        lost = [token for token in ids if token not in new_id and 0 <= token < size]
        if lost:
            raise ValueError(f"kept_ids lacks {lost[0]}, the model's {name}.")
        moved = [new_id.get(token, token) for token in ids]
        setattr(config, name, moved if isinstance(value, list) else moved[0])


def _rebuilt(model: PreTrainedModel, config: PretrainedConfig, state: dict[str, Tensor]) -> PreTrainedModel:
    """A model of the same class from `config` and `state`, by the way that a folder is loaded."""
    copied = {name: value.clone() for name, value in state.items()}  # loading takes tensors as they are
    made, info = type(model).from_pretrained(
        None, config=config, state_dict=copied, dtype=model.dtype, output_loading_info=True
    )
    if info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"]:
        raise ValueError(f"{type(model).__name__} cannot be rebuilt with the new shape: {info}")
    rebuilt: PreTrainedModel = made.to(model.device).train(model.training)
    return rebuilt
