"""Who generates: how each server is started and tuned, the wire on which it takes a prompt, and the engines that are
measured without a server."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.contestants import BENTOML, LOOPBACK, SERVERS, Contestant
from benchmarks.environments import environment
from benchmarks.figures import cores
from benchmarks.generation.llamacpp import gguf_file, llama_server
from benchmarks.generation.models import PRECISIONS, Models
from benchmarks.generation.prompts import Prompt

SLOTS = 8
MARK = '"text":'  # stands once in every event of a completion, in all of them
COMPLETIONS = "/v1/completions"


@dataclass(frozen=True, slots=True)
class Ask:
    """Greedy completions of exactly `tokens` tokens, one for each prompt; a server takes one prompt a request."""

    prompts: tuple[Prompt, ...]
    tokens: int
    stream: bool = False

    @property
    def prompt(self) -> Prompt:
        return self.prompts[0]


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the table before it is started. `served`: over HTTP; otherwise it times itself, without a server."""

    name: str
    model: str
    precision: str
    served: bool
    make: Callable[[], Contestant]


def sluice(models: Models, model: str, precision: str, slots: int = SLOTS, **settings: str) -> Contestant:
    """Ours as `bentoml serve` starts it, from a store where this model is one of several."""
    name = models.name(model, precision)
    environ = {
        "BENTOML_HOME": str(models.store),
        "BENTOML_DO_NOT_TRACK": "True",
        "SLUICE_ACCESS_LOG": "false",
        "SLUICE_GENERATION_MODEL": name,
        "SLUICE_GENERATION_SLOTS": str(slots),
        **settings,
    }
    return Contestant(
        f"sluice {name} {slots}",
        precision,
        f"defaults, {slots} slots",
        lambda port: [BENTOML, "serve", "service:Generation", *LOOPBACK, str(port), "--timeout-keep-alive", "75"],
        environ,
        "/readyz",
        COMPLETIONS,
        completion,
        lambda answer: answer["choices"][0]["text"],
    )


def completion(ask: Ask) -> dict[str, Any]:
    """OpenAI's completion request, with the prompt as text."""
    usage = {"stream_options": {"include_usage": True}} if ask.stream else {}
    return {
        "prompt": ask.prompt.text,
        "max_tokens": ask.tokens,
        "temperature": 0,
        "stream": ask.stream,
        **usage,
    }


def raw(models: Models, model: str, precision: str) -> Contestant:
    """R: the loop around our own graph."""
    artifact = models.artifact(model, precision)
    command = [sys.executable, "-m", "benchmarks.generation.raw", str(artifact)]
    return _unserved(f"raw {models.name(model, precision)}", precision, "the served backend, all cores", command, {})


def transformers(models: Models, model: str) -> Contestant:
    """`transformers serve` with its own continuous batching."""
    program = environment("transformers") / "transformers"
    folder = str(models.folder(model).absolute())
    options = [folder, "--continuous-batching", "--device", "cpu", "--dtype", "float32", "--log-level", "error"]
    # Left to itself its cache takes most of the machine's memory. This is room for twice as many tokens as slots have.
    options += ["--cb-block-size", "32", "--cb-num-blocks", str(2 * SLOTS * 1024 // 32), "--cb-max-batch-tokens", "512"]
    return Contestant(
        f"transformers serve {model}",
        "fp32",
        "--continuous-batching, sdpa, torch's default threads, 512 blocks of 32 tokens",
        lambda port: [str(program), "serve", *options, *LOOPBACK, str(port)],
        {"HF_HUB_OFFLINE": "1"},
        "/health",
        COMPLETIONS,
        lambda ask: {**completion(ask), "model": folder},
        lambda answer: answer["choices"][0]["text"],
    )


def llamacpp(models: Models, model: str, precision: str) -> Contestant:
    """llama.cpp's own server; prompts as ids."""
    program = llama_server()
    file = gguf_file(models.folder(model), precision)
    cache = "f32" if precision == "fp32" else "f16"
    options = ["--model", str(file), "--parallel", str(SLOTS), "--ctx-size", str(SLOTS * 1024)]
    options += ["--threads", str(cores()), "--cache-type-k", cache, "--cache-type-v", cache, "--log-disable"]
    return Contestant(
        f"llama.cpp server {model} {precision}",
        precision,
        f"{'F32' if precision == 'fp32' else 'Q8_0'}, {cores()} threads, {SLOTS} slots, {cache} cache",
        lambda port: [str(program), *options, *LOOPBACK, str(port)],
        {},
        "/health",
        COMPLETIONS,
        lambda ask: {**completion(ask), "prompt": list(ask.prompt.ids), "ignore_eos": True},
        lambda answer: answer["choices"][0]["text"],
    )


def ctranslate2(models: Models, model: str, precision: str) -> Contestant:
    """CTranslate2's generator, raw."""
    program = environment("ctranslate2") / "python"
    command = [str(program), str(SERVERS / "ctranslate2_raw.py"), str(models.folder(model)), precision, str(cores())]
    name = f"CTranslate2 raw {model} {precision}"
    return _unserved(name, precision, f"generate_batch, {cores()} intra threads", command, {})


def genai(models: Models, precision: str) -> Contestant:
    """onnxruntime-genai's generator, raw; its builder takes a Llama and refuses a GPT-2."""
    program = environment("genai") / "python"
    command = [str(program), str(SERVERS / "genai_raw.py"), str(models.folder("llama")), precision, str(cores())]
    tuning = f"{cores()} threads" + (", MatMulNBits of 8 bits, blocks of 32" if precision == "int8" else "")
    return _unserved(f"onnxruntime-genai raw llama {precision}", precision, tuning, command, {"HF_HUB_OFFLINE": "1"})


def _unserved(name: str, precision: str, tuning: str, command: list[str], environ: dict[str, str]) -> Contestant:
    return Contestant(
        name,
        precision,
        tuning,
        lambda port: [*command, str(port)],
        environ,
        "/",
        "/",
        lambda ask: {"prompts": [prompt.ids for prompt in ask.prompts], "tokens": ask.tokens},
        lambda answer: answer["tokens"],
    )


def entries(models: Models, model: str, peers: bool = True) -> Iterator[Entry]:
    """The rows of a model: in each precision the raw loop, ours, and the peers that take it."""
    for precision in PRECISIONS:

        def entry(
            name: str, served: bool, make: Callable[..., Contestant], *arguments: Any, precision: str = precision
        ) -> Entry:
            return Entry(name, model, precision, served, lambda: make(models, *arguments))

        yield entry("raw", False, raw, model, precision)
        yield entry("sluice", True, sluice, model, precision)
        if not peers:
            continue
        yield entry("llama.cpp server", True, llamacpp, model, precision)
        yield entry("CTranslate2 raw", False, ctranslate2, model, precision)
        if precision == "fp32":
            yield entry("transformers serve", True, transformers, model)
        if model == "llama":
            yield entry("onnxruntime-genai raw", False, genai, precision)
