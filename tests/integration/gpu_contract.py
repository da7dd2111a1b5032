"""The encoders' contract on a GPU. Not collected by the suite, which runs on machines without one: `make gpu-check`
names this file. Without a GPU every test here fails; none is skipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from runtime.backends.onnx import CUDA_PROVIDER, OnnxEncoder
from tests.integration.test_export import _Encoder, _PaddedWithOne, artifacts, folders  # noqa: F401  # fixtures
from training.compression.step import GRAPH

DEVICE = "cuda:0"
# What an encoder spends its time on; shapes and positions are computed on the CPU, by ONNX Runtime's design.
HEAVY = {"MatMul", "Gemm", "Attention", "MultiHeadAttention", "SkipLayerNormalization", "LayerNormalization"}


class _OnGpu(_Encoder):
    @pytest.fixture
    def backend(self, artifacts: dict[str, Path]) -> OnnxEncoder:  # noqa: F811
        return OnnxEncoder(artifacts[self.model] / self.graph / GRAPH, device=DEVICE)

    def test_scores_are_those_of_the_cpu(self, artifacts: dict[str, Path], backend: OnnxEncoder) -> None:  # noqa: F811
        reference = OnnxEncoder(artifacts[self.model] / "fp32" / GRAPH)
        difference = np.abs(self.run(reference, self.rows()) - self.run(backend, self.rows())).max()
        assert difference <= self.tolerance

    def test_every_heavy_operator_runs_on_the_gpu(self, artifacts: dict[str, Path]) -> None:  # noqa: F811
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        graph = str(artifacts[self.model] / self.graph / GRAPH)
        session = onnxruntime.InferenceSession(graph, options, providers=[CUDA_PROVIDER], enable_fallback=0)
        placed = [
            (node.op_type, part.ep_name)
            for part in session.get_provider_graph_assignment_info()
            for node in part.get_nodes()
            if node.op_type in HEAVY
        ]
        assert placed
        assert {provider for _, provider in placed} == {CUDA_PROVIDER}


# Chosen, not measured: no GPU has run these yet. cuBLAS takes another kernel for another shape of batch.
class TestBertFp32(_OnGpu):
    model, graph, tolerance = "bert", "fp32", 1e-4


class TestBertFp16(_OnGpu):
    model, graph, tolerance = "bert", "fp16", 2e-2


class TestBiEncoderFp32(_OnGpu):
    model, graph, tolerance = "bi-bert", "fp32", 1e-4


class TestBiEncoderFp16(_OnGpu):
    model, graph, tolerance = "bi-bert", "fp16", 2e-2


class TestRobertaFp32(_PaddedWithOne, _OnGpu):
    model, graph, tolerance = "roberta", "fp32", 1e-4


class TestRobertaFp16(_PaddedWithOne, _OnGpu):
    model, graph, tolerance = "roberta", "fp16", 2e-2
