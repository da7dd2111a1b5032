"""fp32 ONNX graphs to int8 and int4: weights ahead of time, activations while it runs (dynamic quantisation) or, of
encoders, by ranges that were found ahead of time too (static).

Settled by measurement (docs/experiments.md, "int8"). Encoders: one scale an output channel, s8 weights, outlier
channels of what they are multiplied with scaled down first (equalization.py), and the projections of the attention
taken out of the fused operator, whose weights would stay fp32. Decoders: a scale for
each block of 128 weights of 8 bits or 32 of 4 (MatMulNBits), activations quantised a row and block at a time, so that a
sequence has the same logits alone and in company, bit by bit.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

from training.causal_graph import save_graph
from training.compression.equalization import equalize
from training.compression.step import ENCODER_GRAPH, GRAPH

BLOCK = 128
# With blocks of 128 the kernel computes two rows at once, and a last odd row by itself, a rounding different. The
# backend gives such a row a companion, so that all rows take the same kernel whoever else is there.
ROW_MULTIPLE = 2
# The kernel's int8 arithmetic: activations are quantised a row and block at a time.
INT8_ACTIVATIONS = 4
# Of encoders: matrix products, and what is quantised as it runs in a static form too.
PRODUCTS, OTHERS = ["MatMul", "Gemm"], ["Gather", "LSTM"]
# A fused graph lacks the shape information from which the quantisers would infer tensor types.
UNKNOWN = onnx.TensorProto.FLOAT


def quantize_encoder(
    graph: Path,
    path: Path,
    *,
    static: bool = False,
    equalized: bool = True,
    per_channel: bool = True,
    reduce_range: bool = False,
    inputs: Sequence[Mapping[str, np.ndarray]] = (),
) -> dict[str, object]:
    """Write the int8 form of an encoder graph to `path`; returns the settings for the manifest.

    `inputs`: of the graph, on which the extremes of activations are found; without any, nothing is `equalized`, and
    `static` cannot be. `reduce_range`: weights of 7 bits.
    """
    scales = {"per_channel": per_channel, "reduce_range": reduce_range}
    model = onnx.load(graph)
    _expose_projections(model.graph)
    done: dict[str, object] = {"weights": "7 bit" if reduce_range else "s8", "per_channel": per_channel}
    if equalized and inputs:
        done["equalized"] = equalize(model, inputs)
    if static:
        with tempfile.TemporaryDirectory(dir=path.parent) as work:
            halfway = Path(work) / "products.onnx"
            _quantize_static(model, halfway, inputs, **scales)
            _quantize_dynamic(onnx.load(halfway), path, OTHERS, **scales)
        done["activations"] = f"u8, calibrated on {len(inputs)} inputs"
    else:
        _quantize_dynamic(model, path, [*PRODUCTS, *OTHERS], **scales)
    return done | {"operators": [*PRODUCTS, *OTHERS]}


def _expose_projections(graph: onnx.GraphProto) -> None:
    """Attention(x, W, b) -> MultiHeadAttention(split(x W), b): a matrix product that can be quantised like any other.

    The exporter packs W from three initializers at run time; it becomes one here.
    """
    weights = {each.name: each for each in graph.initializer}
    packed = {
        node.output[0]: node for node in graph.node if node.op_type == "Concat" and set(node.input) <= weights.keys()
    }
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        # Past keys or a mask by length: not in an encoder that we export.
        if node.op_type != "Attention" or any(node.input[3:5]):
            nodes.append(node)
            continue
        hidden, weight, bias, *_ = node.input
        for name in (weight, bias):
            if name in packed:
                parts = [numpy_helper.to_array(weights[part]) for part in packed[name].input]
                graph.initializer.append(numpy_helper.from_array(np.concatenate(parts, axis=-1), name))
        out = node.output[0]
        parts_of = [f"{out}_{part}" for part in ("query", "key", "value")]
        heads = next(attribute.i for attribute in node.attribute if attribute.name == "num_heads")
        nodes += [
            helper.make_node("MatMul", [hidden, weight], [f"{out}_packed"], name=f"{out}_projection"),
            helper.make_node("Split", [f"{out}_packed"], parts_of, name=f"{out}_split", axis=-1, num_outputs=3),
            helper.make_node(
                "MultiHeadAttention",
                [*parts_of, bias, "", *node.input[5:6]],
                [out],
                name=out,
                domain="com.microsoft",
                num_heads=heads,
            ),
        ]
    made = {each.name for each in graph.initializer}
    del graph.node[:]
    graph.node.extend(node for node in nodes if node.op_type != "Concat" or node.output[0] not in made)
    used = {name for node in graph.node for name in node.input}
    kept = [each for each in graph.initializer if each.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def quantize_generation(source: Path, directory: Path, *, bits: int = 8, block: int = BLOCK) -> dict[str, object]:
    """The graphs of the artifact `source` with weights of 8 or 4 bits, in `directory`; see `quantize_decoder`."""
    for graph in (ENCODER_GRAPH, GRAPH):
        if (source / graph).is_file():
            done = quantize_decoder(source / graph, directory / graph, bits=bits, block=block)
    return done


def quantize_decoder(graph: Path, path: Path, *, bits: int = 8, block: int = BLOCK) -> dict[str, object]:
    """Write the form of a causal graph with weights of 8 or 4 bits to `path`; returns the settings for the manifest."""
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        halfway = Path(work) / "embeddings.onnx"
        _quantize_dynamic(graph, halfway, ["Gather"])
        model = onnx.load(halfway)
    quantizer = _nbits_quantizer()(
        model, bits=bits, block_size=block, is_symmetric=True, accuracy_level=INT8_ACTIVATIONS
    )
    quantizer.process()
    helper.set_model_props(quantizer.model.model, {"row_multiple": str(ROW_MULTIPLE)})
    save_graph(quantizer.model.model, path)
    return {"weights": f"{bits} bit", "block": block, "activations": "int8 a block, at run time", "embeddings": "s8"}


def _nbits_quantizer() -> type:
    # Importing the module sets the root logger to INFO with a handler of its own; that is undone here.
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    from onnxruntime.quantization import matmul_nbits_quantizer

    root.setLevel(level)
    root.handlers[:] = handlers
    matmul_nbits_quantizer.logger.setLevel(logging.WARNING)
    return matmul_nbits_quantizer.MatMulNBitsQuantizer


def _quantize_dynamic(
    graph: Path | onnx.ModelProto,
    path: Path,
    operators: list[str],
    *,
    per_channel: bool = True,
    reduce_range: bool = False,
) -> None:
    with _quiet():
        quantize_dynamic(
            graph,
            path,
            op_types_to_quantize=operators,
            per_channel=per_channel,
            reduce_range=reduce_range,
            weight_type=QuantType.QInt8,
            # Whatever the size: what lies halfway is read once and thrown away.
            use_external_data_format=isinstance(graph, Path),
            extra_options={"DefaultTensorType": UNKNOWN},
        )


class _Inputs(CalibrationDataReader):
    def __init__(self, inputs: Iterable[Mapping[str, np.ndarray]]) -> None:
        self._left = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next input; None after the last."""
        found = next(self._left, None)
        return None if found is None else dict(found)


def _quantize_static(
    model: onnx.ModelProto,
    path: Path,
    calibration: Iterable[Mapping[str, np.ndarray]],
    *,
    per_channel: bool,
    reduce_range: bool,
) -> None:
    with _quiet():
        quantize_static(
            model,
            path,
            _Inputs(calibration),
            op_types_to_quantize=PRODUCTS,
            per_channel=per_channel,
            reduce_range=reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={
                "DefaultTensorType": UNKNOWN,
                # Products of two activations, and outputs, stay fp32: what reads them is fp32.
                "MatMulConstBOnly": True,
                "OpTypesToExcludeOutputQuantization": PRODUCTS,
            },
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantisers warn on the root logger that they would like shapes inferred first; fused operators have none."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
