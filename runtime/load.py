"""A directory in, an engine out: verify, pick the backend for its format, put the engine around it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.contract import EncoderBackend, GenerationBackend, GenerationEngineName, Limits, Observer, TextEngine
from runtime.errors import ArtifactRefused, DeviceRefused
from runtime.manifest import CausalShape, Manifest, verify
from runtime.text import load_tokenizer

if TYPE_CHECKING:
    from runtime.embedding import EmbeddingEngine
    from runtime.matching import MatchingEngine

LEAST_CONTEXT = 64  # tokens of a sequence, below which a cache is of no use


def load_engine(
    directory: Path,
    *,
    limits: Limits | None = None,
    threads: int | None = None,
    slots: int = 8,
    kv_bytes: int | None = None,
    observer: Observer | None = None,
    device: str = "cpu",
    generation_engine: GenerationEngineName = "onnx",
) -> MatchingEngine | EmbeddingEngine | TextEngine:
    """Verify the artifact in `directory` and load it.

    `threads`: cores to use, default all that this process may. `slots`: sequences that generate at once;
    `kv_bytes`: what their keys and values may take in all, which bounds how long each may get. `device`: "cpu", or
    "cuda:N" for the Nth GPU that is visible. `generation_engine`: "onnx", ours, on the CPU; "vllm", on a GPU.
    Raises ArtifactRefused: anything missing, altered or unknown, or a kind that no engine serves; DeviceRefused.
    """
    manifest = verify(directory)
    check_device(manifest, device, generation_engine)
    threads = threads or len(os.sched_getaffinity(0))
    tokenizer = load_tokenizer(directory / manifest.tokenizer)
    if manifest.kind == "matching":
        from runtime.matching import MatchingEngine

        backend = _encoder_backend(directory, manifest, threads, device)
        return MatchingEngine(manifest, tokenizer, backend, limits=limits, threads=threads, observer=observer)
    if manifest.kind == "embedding":
        from runtime.embedding import EmbeddingEngine

        backend = _encoder_backend(directory, manifest, threads, device)
        return EmbeddingEngine(manifest, tokenizer, backend, limits=limits, threads=threads, observer=observer)
    if manifest.kind == "generation" and manifest.causal:
        from runtime.grammar import Grammar

        shape = manifest.causal
        context = context_tokens(shape, manifest.max_tokens, slots, kv_bytes)
        constrain = Grammar(tokenizer, shape.vocab_size, shape.eos_token_ids).constrain
        if generation_engine == "vllm":
            from runtime.backends.vllm import VllmEngine

            return VllmEngine(
                directory,
                manifest,
                shape,
                tokenizer,
                device=device,
                slots=slots,
                context=context,
                constrain=constrain,
                kv_bytes=kv_bytes,
                limits=limits,
                observer=observer,
            )
        from runtime.generation import GenerationEngine

        generation = _generation_backend(directory, manifest, shape, slots, context, threads)
        return GenerationEngine(
            manifest, shape, tokenizer, generation, constrain=constrain, limits=limits, observer=observer
        )
    raise ArtifactRefused(f"{directory} is of kind {manifest.kind!r}, but its manifest has no `causal` shape.")


def context_tokens(shape: CausalShape, max_tokens: int, slots: int, kv_bytes: int | None) -> int:
    """Tokens that each of `slots` sequences may have: the model's own `max_tokens`, or what `kv_bytes` has room for.

    Every slot is as long as the longest sequence that it may get, so that admission is a look at one number and no
    sequence is ever short of room. Raises ArtifactRefused where there is room for hardly any text.
    """
    if kv_bytes is None:
        return max_tokens
    found = kv_bytes // (slots * shape.kv_bytes_per_token)
    least = min(LEAST_CONTEXT, max_tokens)
    if found < least:
        raise ArtifactRefused(
            f"A KV cache of {kv_bytes} bytes has room for {found} tokens in each of {slots} slots, at "
            f"{shape.kv_bytes_per_token} bytes a token; at least {least} are needed. Allow more bytes "
            "(generation_kv_bytes) or fewer sequences at once (generation_slots)."
        )
    return min(max_tokens, found)


def check_device(manifest: Manifest, device: str, generation_engine: GenerationEngineName = "onnx") -> None:
    """Raises DeviceRefused for an artifact that no engine of ours runs on `device`. Does not look at the device."""
    if manifest.kind == "generation" and generation_engine == "vllm":
        return _check_vllm(manifest, device)
    if device == "cpu":
        return
    if manifest.kind == "generation":
        raise DeviceRefused(
            f"Generation by engine onnx runs on the CPU only, not on {device}. Serve it by a server of its own with "
            "device cpu, and the encoders on the GPU by service:Matching; or generate by vLLM (generation_engine vllm)."
        )
    if manifest.format != "onnx":
        raise DeviceRefused(
            f"An artifact of format {manifest.format} runs on the CPU only, not on {device}. Publish it as onnx, "
            "which `python -m training publish` makes, or compute on the CPU."
        )
    if manifest.precision == "int8":
        raise DeviceRefused(
            f"An int8 encoder is made for CPUs: on {device} its integer products would run on the CPU, batch by batch "
            "copied there and back. Publish the model with --precision fp16, or compute on the CPU."
        )


def _check_vllm(manifest: Manifest, device: str) -> None:
    if device == "cpu":
        raise DeviceRefused(
            "vLLM generates on a GPU only, and device is cpu. Set device to cuda, or cuda:N for one GPU."
        )
    if manifest.causal and manifest.causal.has_source:
        raise DeviceRefused(
            "vLLM here generates with decoders alone, and this is an encoder-decoder. Serve it with device cpu and "
            "generation_engine onnx."
        )
    if manifest.format != "torch":
        raise DeviceRefused(
            f"vLLM reads artifacts of format torch (config.json, *.safetensors, tokenizer.json), and this one is of "
            f"format {manifest.format}. Publish the folder that training wrote, not one of its compressed forms."
        )


# Backends are imported when they are needed: serving must never load torch, tests need no onnxruntime.


def _encoder_backend(directory: Path, manifest: Manifest, threads: int, device: str) -> EncoderBackend:
    if manifest.format == "onnx":
        from runtime.backends.onnx import OnnxEncoder

        return OnnxEncoder(directory / _graph(directory, manifest), threads, device)
    if manifest.format == "torch":
        from runtime.backends.torch import TorchEmbedding, TorchMatching

        return TorchEmbedding(directory) if manifest.kind == "embedding" else TorchMatching(directory)
    from runtime.backends.fake import FakeEmbedding, FakeMatching

    return FakeEmbedding(directory) if manifest.kind == "embedding" else FakeMatching(directory)


def _generation_backend(
    directory: Path, manifest: Manifest, shape: CausalShape, slots: int, context: int, threads: int
) -> GenerationBackend:
    if manifest.format == "onnx" and shape.has_source:
        from runtime.backends.onnx_seq2seq import OnnxSeq2Seq

        encoder, decoder = (
            directory / _listed(directory, manifest, graph) for graph in (manifest.encoder_graph, manifest.graph)
        )
        return OnnxSeq2Seq(encoder, decoder, shape, slots=slots, context=context, threads=threads)
    if manifest.format == "onnx":
        from runtime.backends.onnx import OnnxGeneration

        graph = directory / _graph(directory, manifest)
        return OnnxGeneration(graph, shape, slots=slots, context=context, threads=threads)
    if manifest.format == "torch" and shape.has_source:
        from runtime.backends.torch import TorchSeq2Seq

        return TorchSeq2Seq(directory, shape, slots=slots, context=context)
    if manifest.format == "torch":
        from runtime.backends.torch import TorchGeneration

        return TorchGeneration(directory, slots=slots, context=context)
    from runtime.backends.fake import FakeGeneration

    return FakeGeneration(directory, slots=slots, context=context)


def _graph(directory: Path, manifest: Manifest) -> str:
    return _listed(directory, manifest, manifest.graph)


def _listed(directory: Path, manifest: Manifest, graph: str | None) -> str:
    if graph is None or graph not in manifest.files:
        raise ArtifactRefused(f"{directory} is of format onnx, but its manifest names no graph file that it lists.")
    return graph
