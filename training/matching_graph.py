"""Exports a sequence-classification encoder to ONNX with dynamic batch and length and fused attention."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir
import torch
from onnxscript.rewriter.ort_fusions import optimize_for_ort
from transformers import AutoModelForSequenceClassification

OPSET = 18


def write_matching_graph(checkpoint: Path, path: Path) -> dict[str, int]:
    """Export the folder `checkpoint` (transformers' format) to the fp32 graph `path`.

    Inputs input_ids, attention_mask and, where the model has segments, token_type_ids: (B, T) int64. Output logits
    (B, C). Returns how many operators of each fused kind the graph holds. Raises ValueError when no attention was
    fused: such a graph would run at a fraction of the speed, and silently.
    """
    # SDPA is the attention form that the fusion patterns know.
    model = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    names = ["input_ids", "attention_mask"]
    if getattr(model.config, "type_vocab_size", 0) > 1:
        names.append("token_type_ids")
    # Two rows of unequal length, so that neither the batch nor the mask is traced as a constant.
    example = {name: torch.ones(2, 16, dtype=torch.int64) for name in names}
    example["input_ids"] += 4  # past the special tokens: position ids of RoBERTa depend on them
    example["attention_mask"][1, 10:] = 0
    batch = torch.export.Dim("batch", min=1, max=4096)
    longest = model.config.max_position_embeddings - (2 if model.config.model_type in {"roberta", "xlm-roberta"} else 0)
    length = torch.export.Dim("length", min=2, max=longest)
    with _quiet():
        program = torch.onnx.export(
            model,
            (),
            kwargs=example,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes={name: {0: batch, 1: length} for name in names},
            output_names=["logits"],
            verbose=False,
        )
        optimize_for_ort(program.model)
    onnx_ir.save(program.model, path)
    counts: dict[str, int] = {}
    for node in program.model.graph:
        if node.op_type in {"Attention", "MultiHeadAttention", "SkipLayerNormalization", "BiasGelu", "FastGelu"}:
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    layers = model.config.num_hidden_layers
    if counts.get("Attention", 0) + counts.get("MultiHeadAttention", 0) < layers:
        raise ValueError(f"{checkpoint}: the export fused {counts or 'nothing'} for {layers} attention layers.")
    return counts


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
