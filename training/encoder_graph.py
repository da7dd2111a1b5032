"""Exports an encoder with its head to ONNX: dynamic batch and length, fused attention. Cross-encoders and bi-encoders
differ in what stands behind the encoder, which the export does not see."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir
import torch
from onnxscript import opset18 as op
from onnxscript.rewriter.ort_fusions import optimize_for_ort
from torch import nn
from transformers import AutoModelForSequenceClassification

from models.bilstm import BiLSTM
from models.positions import usable_positions
from models.registry import builder, register_networks
from runtime.manifest import Kind

OPSET = 18


def write_encoder_graph(checkpoint: Path, kind: Kind, path: Path) -> dict[str, int]:
    """Export the folder `checkpoint` (transformers' or sentence-transformers' format) to the fp32 graph `path`.

    Inputs input_ids, attention_mask and, where the model has segments, token_type_ids: (B, T) int64. Output of kind
    matching: logits (B, C); of kind embedding: embedding (B, D), not normalised. Returns how many operators of each
    fused kind the graph holds. Raises ValueError when no attention was fused: such a graph would run at a fraction of
    the speed, and silently.
    """
    model = _network(checkpoint, kind)
    for module in model.modules():
        if isinstance(module, BiLSTM):
            module.pack()
    names = ["input_ids", "attention_mask"]
    if getattr(model.config, "type_vocab_size", 0) > 1:
        names.append("token_type_ids")
    # Two rows of unequal length, so that neither the batch nor the mask is traced as a constant.
    example = {name: torch.ones(2, 16, dtype=torch.int64) for name in names}
    example["input_ids"] += 4  # past the special tokens: position ids of RoBERTa depend on them
    example["attention_mask"][1, 10:] = 0
    batch = torch.export.Dim("batch", min=1, max=4096)
    length = torch.export.Dim("length", min=2, max=usable_positions(model.config))
    with _quiet():
        program = torch.onnx.export(
            model,
            (),
            kwargs=example,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes={name: {0: batch, 1: length} for name in names},
            custom_translation_table={torch.ops.sluice.bilstm.default: _lstm},
            verbose=False,
        )
        optimize_for_ort(program.model)
    _name_output(program.model.graph, "logits" if kind == "matching" else "embedding")
    ir.save(program.model, path)
    counts: dict[str, int] = {}
    for node in program.model.graph:
        if node.op_type in {"Attention", "MultiHeadAttention", "SkipLayerNormalization", "BiasGelu", "FastGelu"}:
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    layers = model.config.num_hidden_layers if getattr(model.config, "num_attention_heads", 0) else 0
    if counts.get("Attention", 0) + counts.get("MultiHeadAttention", 0) < layers:
        raise ValueError(
            f"{checkpoint}: of {layers} attention layers of this {model.config.model_type} model the export fused "
            f"{counts or 'none'}; take an encoder whose attention transformers computes with SDPA (BERT, RoBERTa, …)."
        )
    return counts


def _lstm(x: ir.Value, lengths: ir.Value, weight: ir.Value, recurrent: ir.Value, bias: ir.Value) -> ir.Value:
    """The operator of models/bilstm.py: (B, T, in) -> (B, T, 2H)."""
    steps = op.Transpose(x, perm=[1, 0, 2])  # (T, B, in): ONNX Runtime has no other layout
    hidden, _, _ = op.LSTM(
        steps,
        weight,
        recurrent,
        bias,
        op.Cast(lengths, to=ir.DataType.INT32),
        direction="bidirectional",
        hidden_size=recurrent.shape[2],
    )  # (T, 2, B, H)
    return op.Reshape(op.Transpose(hidden, perm=[2, 0, 1, 3]), op.Constant(value_ints=[0, 0, -1]))


def _network(checkpoint: Path, kind: Kind) -> nn.Module:
    # Where a model has it, transformers computes attention by SDPA, which is the form that the fusion patterns know.
    if kind == "embedding":
        model: nn.Module = builder(kind, "bi-encoder")(checkpoint)
    else:
        register_networks()
        model = AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=torch.float32)
    return model.eval()


def _name_output(graph: ir.Graph, name: str) -> None:
    # The exporter names values after operators, and one of those is "embedding" too.
    for value in (value for node in graph for value in node.outputs if value.name == name):
        value.name = f"{name}_operator"
    graph.outputs[0].name = name


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter logs every operator of torchvision that it does not find."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
