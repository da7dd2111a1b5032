"""The device is what the operator says: each worker its own, tried before any starts, never replaced by the CPU."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from runtime.backends.fake import write_fake_artifact
from runtime.contract import Limits, Silent
from runtime.encoder import WARM_UP_SHAPES, large_warm_up_shapes
from runtime.errors import DeviceRefused
from runtime.manifest import Kind, Precision, read_manifest, write_manifest
from runtime.store import Entry
from serving.catalogue import Choice, load
from serving.device import check_devices
from serving.settings import SettingsRefused, read_settings

pytestmark = pytest.mark.unit


def entry(directory: Path, kind: Kind = "matching", precision: Precision = "fp16") -> Entry:
    """An artifact that says it is onnx; what stands in the graph is never reached without a GPU."""
    write_fake_artifact(directory, kind)
    (directory / "model.onnx").write_bytes(b"graph")
    fields = read_manifest(directory).model_dump(exclude={"files"})
    fields |= {"format": "onnx", "graph": "model.onnx", "precision": precision}
    return Entry("m:v1", directory, write_manifest(directory, **fields), ())


def test_each_worker_has_a_gpu_of_its_own() -> None:
    settings = read_settings({"SLUICE_DEVICE": "cuda", "SLUICE_WORKERS": "3"})
    assert settings.devices() == ["cuda:0", "cuda:1", "cuda:2"]
    # The fourth is one that was started in place of a dead one.
    assert [settings.on_worker(number).device for number in range(4)] == ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]
    assert read_settings({"SLUICE_WORKERS": "2"}).on_worker(1).device == "cpu"


def test_one_gpu_can_be_pinned_for_all() -> None:
    settings = read_settings({"SLUICE_DEVICE": "cuda:2", "SLUICE_WORKERS": "2"})
    assert settings.on_worker(1).device == "cuda:2"


@pytest.mark.parametrize("value", ["gpu", "CUDA", "cuda:", "cuda:-1", "auto", "cpu:0"])
def test_another_device_is_refused(value: str) -> None:
    with pytest.raises(SettingsRefused, match=f"^SLUICE_DEVICE is {re.escape(repr(value))}: "):
        read_settings({"SLUICE_DEVICE": value})


def test_a_gpu_has_larger_batches_unless_the_operator_says_how_large() -> None:
    gpu, own = {"SLUICE_DEVICE": "cuda"}, {"SLUICE_BATCH_ITEMS": "7", "SLUICE_BATCH_TOKENS": "900"}
    cpu = read_settings({}).encoder_limits()
    assert (cpu.batch_items, cpu.batch_tokens) == (Limits().batch_items, Limits().batch_tokens)
    large = read_settings(gpu).encoder_limits()
    assert (large.batch_items, large.batch_tokens) == (256, 32_768)
    assert read_settings(gpu).engine_threads() == 2
    chosen = read_settings({**gpu, **own, "SLUICE_THREADS": "5"})
    assert (chosen.encoder_limits().batch_items, chosen.encoder_limits().batch_tokens) == (7, 900)
    assert chosen.engine_threads() == 5


def test_the_warm_up_grows_with_the_limits_in_steps_that_the_cost_model_believes() -> None:
    assert large_warm_up_shapes(Limits()) == []
    large = large_warm_up_shapes(read_settings({"SLUICE_DEVICE": "cuda"}).encoder_limits())
    assert large == [(16, 32), (64, 32), (256, 32), (256, 128)]
    for limits in (Limits(batch_items=1, batch_tokens=4096), Limits(batch_items=5000, batch_tokens=20_000)):
        shapes = large_warm_up_shapes(limits)
        tokens = [rows * length for rows, length in shapes]
        assert all(limits.batch_tokens >= size for size in tokens)
        assert max(tokens) > limits.batch_tokens / 4
        sizes = [max(rows * length for rows, length in WARM_UP_SHAPES), *tokens]
        assert all(after <= 4 * before for before, after in pairwise(sizes))


def test_an_absent_gpu_is_refused_in_another_process_naming_setting_provider_and_package(tmp_path: Path) -> None:
    settings = read_settings({"SLUICE_DEVICE": "cuda"})
    with pytest.raises(DeviceRefused) as refused:
        check_devices(settings, [entry(tmp_path)])
    assert refused.value.message.startswith("SLUICE_DEVICE is 'cuda', for 1 worker(s): cuda:0 was asked for, but ")
    assert "no CUDAExecutionProvider" in refused.value.message
    assert "onnxruntime-gpu" in refused.value.message


def test_a_worker_loads_its_models_on_its_own_device(tmp_path: Path) -> None:
    settings = read_settings({"SLUICE_DEVICE": "cuda", "SLUICE_WORKERS": "2"}).on_worker(1)
    with pytest.raises(DeviceRefused, match=r"^cuda:1 was asked for"):
        load(Choice("m", entry(tmp_path)), settings, Silent())


@pytest.mark.parametrize(
    ("kind", "precision", "reason"),
    [
        ("matching", "int8", "--precision fp16"),
        ("generation", "fp32", "Generation by engine onnx runs on the CPU only"),
    ],
)
def test_an_artifact_that_a_gpu_does_not_run_is_refused(
    tmp_path: Path, kind: Kind, precision: Precision, reason: str
) -> None:
    settings = read_settings({"SLUICE_DEVICE": "cuda:1"})
    with pytest.raises(DeviceRefused, match=f"^SLUICE_DEVICE is 'cuda:1'.*{reason}"):
        check_devices(settings, [entry(tmp_path / "good"), entry(tmp_path / "bad", kind, precision)])


def test_a_generation_engine_that_is_not_installed_is_refused_naming_setting_and_command(tmp_path: Path) -> None:
    model = entry(tmp_path / "model", "generation", "fp32")
    fields = read_manifest(model.path).model_dump(exclude={"files"}) | {"format": "torch", "graph": None}
    torch = Entry("g:v1", model.path, write_manifest(model.path, **fields), ())
    settings = read_settings({"SLUICE_DEVICE": "cuda", "SLUICE_GENERATION_ENGINE": "vllm"})
    with pytest.raises(DeviceRefused, match=r"^SLUICE_DEVICE is 'cuda'.*gpu-generation\.txt"):
        check_devices(settings, [torch])
    with pytest.raises(DeviceRefused, match=r"gpu-generation\.txt"):
        load(Choice("g", torch), settings.on_worker(0), Silent())


def test_vllm_without_a_gpu_is_refused_before_any_worker_starts(tmp_path: Path) -> None:
    settings = read_settings({"SLUICE_GENERATION_ENGINE": "vllm"})
    with pytest.raises(DeviceRefused, match=r"^SLUICE_DEVICE is 'cpu'.*Set device to cuda"):
        check_devices(settings, [entry(tmp_path, "generation", "fp32")])


def test_another_generation_engine_is_refused() -> None:
    with pytest.raises(SettingsRefused, match=r"^SLUICE_GENERATION_ENGINE is 'tgi': "):
        read_settings({"SLUICE_GENERATION_ENGINE": "tgi"})
