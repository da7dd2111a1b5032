"""fp32 encoder graphs to fp16, for GPUs: weights and everything between input and output in 16 bits, operators as they
are. Inputs and the output keep their types, so it loads and is right on a CPU too, where it is slow."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16


def halve_encoder(graph: Path, path: Path) -> dict[str, object]:
    """Write the fp16 form of an encoder graph to `path`; returns the settings for the manifest."""
    # Fused operators have no shape inference, which the conversion needs only for values whose type nothing tells.
    model = convert_float_to_float16(onnx.load(graph), keep_io_types=True, disable_shape_infer=True)
    onnx.save(model, path)
    return {"weights": "fp16", "inputs and output": "as in fp32"}
