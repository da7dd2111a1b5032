"""fp32 ONNX graphs to int8: weights ahead of time, activations while it runs (dynamic quantisation), no calibration.

Two forms, chosen by measurement (docs/experiments.md, "int8"). Encoders: one scale an output channel, s8 weights, which
ONNX Runtime fuses into its quantised attention. Decoders: blocks of 32 weights with a scale each (MatMulNBits, 8 bits),
which is more exact, faster at batch 1, and gives a sequence the same logits alone and in company, bit by bit.
"""

from __future__ import annotations

import logging
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

BLOCK = 32
# The kernel's int8 arithmetic: activations are quantised a row and block at a time.
INT8_ACTIVATIONS = 4


def quantize_encoder(graph: Path, path: Path) -> dict[str, object]:
    """Write the int8 form of a matching graph to `path`; returns the settings for the manifest."""
    operators = ["MatMul", "Gemm", "Attention", "Gather"]
    _quantize_dynamic(graph, path, operators)
    return {"weights": "s8", "per_channel": True, "operators": operators}


def quantize_decoder(graph: Path, path: Path) -> dict[str, object]:
    """Write the int8 form of a causal graph to `path`; returns the settings for the manifest."""
    _quantize_dynamic(graph, path, ["Gather"])
    quantizer = _nbits_quantizer()(
        onnx.load(path), bits=8, block_size=BLOCK, is_symmetric=True, accuracy_level=INT8_ACTIVATIONS
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(path), False)
    return {"weights": "8 bit", "block": BLOCK, "activations": "int8 a block, at run time", "embeddings": "s8"}


def _nbits_quantizer() -> type:
    # Importing the module sets the root logger to INFO with a handler of its own; that is undone here.
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    from onnxruntime.quantization import matmul_nbits_quantizer

    root.setLevel(level)
    root.handlers[:] = handlers
    matmul_nbits_quantizer.logger.setLevel(logging.WARNING)
    return matmul_nbits_quantizer.MatMulNBitsQuantizer


def _quantize_dynamic(graph: Path, path: Path, operators: list[str]) -> None:
    # The quantiser warns on the root logger that it would like shapes inferred first; fused operators have none.
    logging.disable(logging.WARNING)
    try:
        quantize_dynamic(
            graph,
            path,
            op_types_to_quantize=operators,
            per_channel=True,
            weight_type=QuantType.QInt8,
            # A fused graph lacks the shape information from which the quantiser would infer tensor types.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
    finally:
        logging.disable(logging.NOTSET)
