"""Outlier channels of activations, made small before they are quantised, and their weights larger to make up for it.

One scale serves all channels of an activation, so a few large ones cost all others their digits. Such a channel c is
divided by s_c = max(1, max |x_c| / (2 median over channels of max |x|)) and its row of the weights multiplied by it:
the product is the same. SmoothQuant (Xiao et al. 2022, arXiv:2211.10438) moves all channels so; only outliers are here
(docs/experiments.md, "int8 of the teacher").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

F32 = npt.NDArray[np.float32]
# In medians of the channels' extremes. Where no channel is WORTHWHILE, a multiplication costs more than it gains.
KEPT, WORTHWHILE = 2.0, 4.0


def equalize(model: onnx.ModelProto, inputs: Iterable[Mapping[str, np.ndarray]]) -> int:
    """Scale, in place, what goes into matrix products with constant weights; returns how many there were to scale.

    `inputs`: of the graph; the channels' extremes are found on them.
    """
    weights = {each.name: each for each in model.graph.initializer}
    products = _products(model.graph, weights)
    if not products:
        return 0
    extremes = _extremes(model, [node.input[0] for node in products.values()], inputs)
    nodes: list[onnx.NodeProto] = []
    scaled = 0
    for node in model.graph.node:
        channels = extremes.get(node.input[0]) if node.output[0] in products else None
        if channels is not None and channels.max() > WORTHWHILE * np.median(channels) > 0:
            nodes.append(_scale(model.graph, node, weights[node.input[1]], channels))
            scaled += 1
        nodes.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return scaled


def _products(graph: onnx.GraphProto, weights: Mapping[str, onnx.TensorProto]) -> dict[str, onnx.NodeProto]:
    """Matrix products by their output, whose weights are constant, two-dimensional and nobody else's."""
    uses = Counter(name for node in graph.node for name in node.input)
    return {
        node.output[0]: node
        for node in graph.node
        if node.op_type == "MatMul"
        and (weight := weights.get(node.input[1])) is not None
        and len(weight.dims) == 2
        and uses[weight.name] == 1
    }


def _extremes(
    model: onnx.ModelProto, names: Iterable[str], inputs: Iterable[Mapping[str, np.ndarray]]
) -> dict[str, F32]:
    """The largest magnitude of each channel (last axis) of each of the named tensors over all inputs."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    names = list(dict.fromkeys(names))
    outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names]
    del watched.graph.output[:]
    watched.graph.output.extend(outputs)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    largest: dict[str, F32] = {}
    for feeds in inputs:
        for name, value in zip(names, session.run(None, dict(feeds)), strict=True):
            seen = np.abs(value).reshape(-1, value.shape[-1]).max(axis=0)
            largest[name] = np.maximum(largest.get(name, seen), seen)
    return largest


def _scale(graph: onnx.GraphProto, product: onnx.NodeProto, weight: onnx.TensorProto, channels: F32) -> onnx.NodeProto:
    """Scale the rows of `weight`, and let `product` read its input divided by the scales; returns the division."""
    scales = np.maximum(1, channels / (KEPT * np.median(channels))).astype(np.float32)
    rows = numpy_helper.to_array(weight) * scales[:, None]
    weight.CopyFrom(numpy_helper.from_array(rows, weight.name))
    smaller, divisors = f"{product.output[0]}_equalized", f"{product.output[0]}_scales"
    graph.initializer.append(numpy_helper.from_array(1 / scales, divisors))
    node = helper.make_node("Mul", [product.input[0], divisors], [smaller], name=smaller)
    product.input[0] = smaller
    return node
