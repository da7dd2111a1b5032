"""vLLM behind the engine's interface, as far as it goes without a GPU: settings and outputs translated, and refusals.
What stands for vLLM's outputs has fields of `vllm/outputs.py` and `vllm/logprobs.py`; nothing stands for its engine."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runtime.backends.fake import byte_tokenizer, write_fake_artifact
from runtime.backends.vllm_mapping import (
    Strand,
    engine_arguments,
    read_scores,
    sampling_arguments,
    visible_gpu,
)
from runtime.contract import PromptScores, Sampling, Token
from runtime.errors import BackendFailed, DeviceRefused
from runtime.load import load_engine
from runtime.manifest import read_manifest, write_manifest
from runtime.text import TokenPrinter

pytestmark = pytest.mark.unit
END = 256


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    token_ids: Sequence[int]
    logprobs: Sequence[Mapping[int, Logprob]] | None = None
    finish_reason: str | None = None
    index: int = 0
    text: str = ""
    stop_reason: int | str | None = field(default=None)


def row(**values: float) -> dict[int, Logprob]:
    """A row of log-probabilities, its tokens named by their letter."""
    return {ord(letter): Logprob(value) for letter, value in values.items()}


def strand(**settings: Any) -> Strand:
    sampling = Sampling(**settings)
    printer = TokenPrinter(byte_tokenizer(pairs=False), [], sampling.stop, min_tokens=sampling.min_tokens)
    return Strand(1, sampling, frozenset({END}), printer)


def test_settings_in_vllms_words() -> None:
    sampling = Sampling(
        max_tokens=7, min_tokens=2, temperature=0.5, top_k=3, top_p=0.9, min_p=0.1, repetition_penalty=1.1,
        presence_penalty=0.2, frequency_penalty=0.3, logit_bias=((5, -1.0), (6, 2.0)), seed=40, stop=("x",),
        logprobs=2, prompt_logprobs=1,
    )  # fmt: skip
    assert sampling_arguments(sampling, {END, 9}) == {
        "max_tokens": 7, "min_tokens": 2, "temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1,
        "repetition_penalty": 1.1, "presence_penalty": 0.2, "frequency_penalty": 0.3, "logit_bias": {5: -1.0, 6: 2.0},
        "seed": 40, "ignore_eos": False, "stop_token_ids": [9, END], "logprobs": 2, "prompt_logprobs": 1,
        "schema": None, "detokenize": False,
    }  # fmt: skip


def test_what_is_off_is_off_there_as_well() -> None:
    found = sampling_arguments(Sampling(), {END})
    assert (found["logit_bias"], found["seed"], found["logprobs"], found["schema"]) == (None, None, None, None)
    assert sampling_arguments(Sampling(ignore_eos=True), {END})["stop_token_ids"] == []
    assert sampling_arguments(Sampling(schema="{}"), {END})["schema"] == "{}"


def test_each_sequence_has_its_own_seed_and_the_prompt_is_scored_once() -> None:
    sampling = Sampling(seed=2**63 - 1, prompt_logprobs=0)
    found = [sampling_arguments(sampling, {END}, index) for index in range(2)]
    assert [each["seed"] for each in found] == [2**63 - 1, 0]  # 64 bits with a sign there
    assert [each["prompt_logprobs"] for each in found] == [0, None]


def test_a_prompt_that_is_only_scored_asks_for_one_token() -> None:
    assert sampling_arguments(Sampling(max_tokens=0, prompt_logprobs=0), {END})["max_tokens"] == 1


def test_the_engine_has_our_slots_our_context_and_our_budget() -> None:
    found = engine_arguments(Path("/m"), slots=3, context=200, kv_bytes=1000)
    assert (found["model"], found["max_num_seqs"], found["max_model_len"]) == ("/m", 3, 200)
    assert found["kv_cache_memory_bytes"] == 1000
    assert found["dtype"] == "float32"


def test_scores_of_a_prompt() -> None:
    rows = [None, row(b=-1.0), row(c=-3.0, x=-0.5)]
    assert read_scores(list(b"abc"), rows, 1) == PromptScores(
        logprobs=(None, -1.0, -3.0), likeliest=((), ((ord("b"), -1.0),), ((ord("x"), -0.5),))
    )


def test_tokens_with_their_text_and_their_log_probabilities() -> None:
    one = strand(logprobs=1)
    tokens, reason = one.read(CompletionOutput(b"hi", [row(h=-0.5), row(i=-2.0, o=-0.1)]))
    assert tokens == [
        Token(ord("h"), "h", 1, -0.5, ((ord("h"), -0.5),)),
        Token(ord("i"), "i", 1, -2.0, ((ord("o"), -0.1),)),
    ]
    assert (reason, one.count) == (None, 2)
    assert one.read(CompletionOutput(b"!", [row(**{"!": -1.0})], "length"))[1] == "length"


def test_a_character_over_two_outputs_is_shown_once_it_is_whole() -> None:
    one = strand()
    first, second = "é".encode()
    assert [token.text for token in one.read(CompletionOutput([first]))[0]] == [""]
    assert [token.text for token in one.read(CompletionOutput([second]))[0]] == ["é"]


def test_an_end_token_is_told_only_to_who_asks_how_likely_it_was() -> None:
    silent = strand()
    assert silent.read(CompletionOutput([ord("a"), END], None, "stop")) == ([Token(ord("a"), "a", 1)], "stop")
    assert silent.count == 1
    asked = strand(logprobs=0)
    tokens, reason = asked.read(CompletionOutput([END], [{END: Logprob(-0.25)}], "stop"))
    assert (tokens, reason, asked.count) == ([Token(END, "", 1, -0.25)], "stop", 0)


def test_an_end_token_that_is_ignored_is_a_token() -> None:
    one = strand(ignore_eos=True)
    tokens, reason = one.read(CompletionOutput([END, ord("a")]))
    assert ([token.id for token in tokens], reason, one.count) == ([END, ord("a")], None, 2)


def test_a_stop_string_ends_the_sequence_whatever_vllm_has_computed_since() -> None:
    one = strand(stop=("lo",))
    tokens, reason = one.read(CompletionOutput(b"hello, world"))
    assert ("".join(token.text for token in tokens), reason, one.count) == ("hel", "stop", 5)


def test_an_end_that_nobody_asked_for_is_a_failure() -> None:
    with pytest.raises(BackendFailed, match="abort"):
        strand().read(CompletionOutput([], None, "abort"))


@pytest.mark.parametrize(
    ("device", "visible", "expected"),
    [("cuda", None, "0"), ("cuda:2", None, "2"), ("cuda:1", "4,GPU-7", "GPU-7"), ("cuda:0", " 3 ", "3")],
)
def test_a_worker_sees_its_own_gpu_only(device: str, visible: str | None, expected: str) -> None:
    assert visible_gpu(device, visible) == expected


def test_a_gpu_that_is_hidden_is_refused() -> None:
    with pytest.raises(DeviceRefused, match=r"cuda:1 was asked for, but CUDA_VISIBLE_DEVICES is '5': 1 GPU"):
        visible_gpu("cuda:1", "5")


def artifact(directory: Path, kind: Any = "generation", format: str = "torch") -> Path:
    write_fake_artifact(directory, kind)
    fields = read_manifest(directory).model_dump(exclude={"files"}) | {"format": format}
    write_manifest(directory, **fields)
    return directory


@pytest.mark.parametrize(
    ("format", "device", "problem"),
    [
        ("torch", "cuda:0", "cannot be imported here .*pip install -r requirements/gpu-generation.txt"),
        ("torch", "cpu", "device is cpu. Set device to cuda"),
        ("onnx", "cuda:0", r"format torch .*\*\.safetensors.* is of format onnx. Publish the folder"),
    ],
)
def test_what_vllm_needs_and_has_not_is_named(tmp_path: Path, format: str, device: str, problem: str) -> None:
    with pytest.raises(DeviceRefused, match=problem):
        load_engine(artifact(tmp_path, format=format), device=device, generation_engine="vllm")


def test_the_extra_that_is_named_exists() -> None:
    root = Path(__file__).parents[3]
    assert re.search(r"^vllm==", (root / "requirements/gpu-generation.txt").read_text(encoding="utf-8"), re.M)


def test_encoders_do_not_mind_how_others_generate(tmp_path: Path) -> None:
    write_fake_artifact(tmp_path, "matching")
    load_engine(tmp_path, generation_engine="vllm").close()
