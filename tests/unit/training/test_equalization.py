"""Outlier channels are made small, and the products stay what they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from training.compression.equalization import equalize
from training.compression.quantization import quantize_encoder

pytestmark = pytest.mark.unit
CHANNELS, OUTPUTS = 16, 8
RNG = np.random.default_rng(7)
WEIGHTS = RNG.normal(size=(CHANNELS, OUTPUTS)).astype(np.float32)
EVEN = [{"x": RNG.normal(size=(32, CHANNELS)).astype(np.float32)} for _ in range(4)]
OUTLIERS = [{"x": feeds["x"] * np.where(np.arange(CHANNELS) == 3, 40, 1).astype(np.float32)} for feeds in EVEN]


def graph(*, shared: bool = False) -> onnx.ModelProto:
    """x W; `shared`: and relu(x) W, by the same weights."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    outputs = [helper.make_tensor_value_info("y", 1, [None, OUTPUTS])]
    if shared:
        nodes += [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("MatMul", ["r", "w"], ["z"], name="other")]
        outputs.append(helper.make_tensor_value_info("z", 1, [None, OUTPUTS]))
    inputs = [helper.make_tensor_value_info("x", 1, [None, CHANNELS])]
    made = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(WEIGHTS, "w")])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: onnx.ModelProto | Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return np.asarray(ort.InferenceSession(source, providers=["CPUExecutionProvider"]).run(["y"], feeds)[0])


def test_an_outlier_is_scaled_and_the_product_is_the_same() -> None:
    model = graph()
    assert equalize(model, OUTLIERS) == 1
    assert np.allclose(run(model, OUTLIERS[0]), run(graph(), OUTLIERS[0]), rtol=1e-4, atol=1e-4)
    rows = numpy_helper.to_array(next(each for each in model.graph.initializer if each.name == "w"))
    changed = np.abs(rows / WEIGHTS - 1).max(axis=1) > 1e-6
    assert changed[3]
    assert changed.sum() == 1


@pytest.mark.parametrize(("inputs", "shared"), [(EVEN, False), (OUTLIERS, True)], ids=["no outlier", "shared weights"])
def test_what_would_gain_nothing_or_is_read_by_another_stays(inputs: list[dict[str, np.ndarray]], shared: bool) -> None:
    model = graph(shared=shared)
    assert equalize(model, inputs) == 0
    assert model == graph(shared=shared)


def test_int8_of_equalized_inputs_is_nearer_to_fp32(tmp_path: Path) -> None:
    onnx.save(graph(), tmp_path / "fp32.onnx")
    far = {}
    for equalized in (False, True):
        path = tmp_path / f"{equalized}.onnx"
        done = quantize_encoder(tmp_path / "fp32.onnx", path, equalized=equalized, inputs=OUTLIERS)
        assert done.get("equalized") == (1 if equalized else None)
        far[equalized] = np.abs(run(path, OUTLIERS[1]) - run(graph(), OUTLIERS[1])).mean()
    assert far[True] < 0.5 * far[False]
