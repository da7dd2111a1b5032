"""Our settings in vLLM's words, and vLLM's outputs in ours. Imports no vllm; names as in `vllm/sampling_params.py`,
`vllm/engine/arg_utils.py` and `vllm/outputs.py`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from runtime.contract import Likeliest, PromptScores, Sampling, Token
from runtime.errors import BackendFailed, DeviceRefused
from runtime.text import TokenPrinter

# Same name, same meaning, same way to say "off".
SAME = (
    "min_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "ignore_eos",
    "logprobs",
)


class Logprob(Protocol):
    """vLLM's `Logprob`."""

    logprob: float


Row = Mapping[int, Logprob]  # of one place: its own token and the likeliest


class Output(Protocol):
    """vLLM's `CompletionOutput`: with output_kind DELTA, what is new of a sequence."""

    token_ids: Sequence[int]
    logprobs: Sequence[Row] | None
    finish_reason: str | None


def engine_arguments(directory: Path, *, slots: int, context: int, kv_bytes: int | None) -> dict[str, Any]:
    """Keywords of `AsyncEngineArgs`. `kv_bytes` None: vLLM takes what is free of the GPU."""
    return {
        "model": str(directory),
        "dtype": "float32",  # as the artifact is; left to itself, vLLM would halve it
        "max_model_len": context,
        "max_num_seqs": slots,
        "kv_cache_memory_bytes": kv_bytes,
        "enable_prefix_caching": True,
        "generation_config": "vllm",  # no settings but the request's
        "structured_outputs_config": {"backend": "guidance"},  # llguidance, as on the CPU
        "disable_log_stats": True,  # the metrics are ours
    }


def sampling_arguments(sampling: Sampling, eos: Collection[int], index: int = 0) -> dict[str, Any]:
    """Keywords of `SamplingParams` for sequence `index`, and `schema`, which has a class of its own there.

    `n` stays 1: vLLM makes n requests of one as well (`vllm/v1/engine/parallel_sampling.py`), and only a request can be
    ended alone. It gets no `stop`: without `detokenize` it has no text to look for them in.
    """
    return {name: getattr(sampling, name) for name in SAME} | {
        "max_tokens": max(sampling.max_tokens, 1),  # of a prompt that is only scored, the token is not passed on
        "seed": None if sampling.seed is None else (sampling.seed + index) % 2**63,
        "prompt_logprobs": None if index else sampling.prompt_logprobs,
        "logit_bias": dict(sampling.logit_bias) or None,
        "stop_token_ids": [] if sampling.ignore_eos else sorted(eos),
        "schema": sampling.schema,
        "detokenize": False,
    }


def visible_gpu(device: str, visible: str | None) -> str:
    """What CUDA_VISIBLE_DEVICES must be for `device` ("cuda" or "cuda:N") to be the only GPU, where it is `visible`.

    Raises DeviceRefused: there are fewer.
    """
    number = int(device.partition(":")[2] or 0)
    if visible is None:
        return str(number)
    names = [name.strip() for name in visible.split(",") if name.strip()]
    if number >= len(names):
        raise DeviceRefused(f"{device} was asked for, but CUDA_VISIBLE_DEVICES is {visible!r}: {len(names)} GPU(s).")
    return names[number]


def read_scores(prompt: Sequence[int], rows: Sequence[Row | None], count: int) -> PromptScores:
    """vLLM's `prompt_logprobs`, a row a token, none for the first, with the `count` likeliest."""
    return PromptScores(
        logprobs=tuple(row[token].logprob if row else None for token, row in zip(prompt, rows, strict=True)),
        likeliest=tuple(_likeliest(row, count) for row in rows),
    )


@dataclass(slots=True)
class Strand:
    """One sequence as it comes out of vLLM. `count`: its tokens, without an end token; `reason`: once it has ended."""

    index: int
    sampling: Sampling
    eos: frozenset[int]
    printer: TokenPrinter
    count: int = 0
    reason: str | None = None

    def read(self, output: Output) -> tuple[list[Token], str | None]:
        """What `output` adds, and why the sequence ends with it, if it does: stop | length. Tokens after a stop string
        are left out; an end token is told only where log-probabilities are asked for. Raises BackendFailed."""
        tokens: list[Token] = []
        rows: Sequence[Row | None] = output.logprobs or [None] * len(output.token_ids)
        for id, row in zip(output.token_ids, rows, strict=True):
            logprob = row[id].logprob if row else None
            likeliest = _likeliest(row, self.sampling.logprobs or 0)
            if id in self.eos and not self.sampling.ignore_eos:
                if row:
                    tokens.append(Token(id, "", self.index, logprob, likeliest))
                return tokens, "stop"
            self.count += 1
            tokens.append(Token(id, self.printer.push(id), self.index, logprob, likeliest))
            if self.printer.stopped:
                return tokens, "stop"
        if output.finish_reason not in (None, "stop", "length"):
            raise BackendFailed(f"vLLM ended this sequence by itself: {output.finish_reason}.")
        return tokens, output.finish_reason


def _likeliest(row: Row | None, count: int) -> Likeliest:
    """The `count` likeliest; a row may hold one more, the token itself."""
    found = sorted(((id, value.logprob) for id, value in (row or {}).items()), key=lambda pair: -pair[1])
    return tuple(found[:count])
