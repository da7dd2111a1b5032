"""Where the layers of a transformer are, and the parts of a layer, whatever its family calls them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import nn


@dataclass(frozen=True, slots=True)
class Layout:
    """Linear layers of one layer, as paths from it; `width` is the configuration's name for the number of neurons."""

    projections: tuple[str, ...]  # give queries, keys and values, whose columns are those of the heads
    attended: str  # reads what all heads have found
    raised: tuple[str, ...]  # give the neurons of the feed-forward part
    lowered: str  # reads them
    width: str


LAYOUTS = (
    Layout(  # BERT, RoBERTa, ELECTRA
        ("attention.self.query", "attention.self.key", "attention.self.value"),
        "attention.output.dense",
        ("intermediate.dense",),
        "output.dense",
        "intermediate_size",
    ),
    Layout(  # DistilBERT
        ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        "attention.out_lin",
        ("ffn.lin1",),
        "ffn.lin2",
        "hidden_dim",
    ),
    Layout(("attn.c_attn",), "attn.c_proj", ("mlp.c_fc",), "mlp.c_proj", "n_inner"),  # GPT-2
    Layout(  # Llama, Mistral, Qwen 2
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "self_attn.o_proj",
        ("mlp.gate_proj", "mlp.up_proj"),
        "mlp.down_proj",
        "intermediate_size",
    ),
)


def layer_stack(model: nn.Module) -> tuple[str, int]:
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


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers, first to last. Raises ValueError as `layer_stack` does."""
    return list(cast(nn.ModuleList, model.get_submodule(layer_stack(model)[0])))


def layout_of(model: nn.Module) -> Layout:
    """Where the parts of its layers are. Raises ValueError: a family that is not known here."""
    names = {name for name, _ in layers_of(model)[0].named_modules()}
    for layout in LAYOUTS:
        if {*layout.projections, layout.attended, *layout.raised, layout.lowered} <= names:
            return layout
    raise ValueError(
        f"The layers of {type(model).__name__} are none of a known family (BERT, DistilBERT, GPT-2, Llama)."
    )


def neurons_of(model: nn.Module) -> int:
    """How many neurons the feed-forward part of a layer has. Raises ValueError as `layout_of` does."""
    lowered = layers_of(model)[0].get_submodule(layout_of(model).lowered)
    return cast(nn.Linear, lowered).weight.numel() // int(model.config.hidden_size)
