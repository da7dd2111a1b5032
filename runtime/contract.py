"""The seams of the engine: what callers hand in and get back, and what a backend must offer.

Nothing heavy is imported here. Shapes: B rows of a batch, T padded tokens, C classes, D dimensions, V vocabulary,
n running slots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from runtime.errors import SluiceError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from runtime.manifest import Manifest

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]


# ---------------------------------------------------------------- encoders: matching and embedding


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts whose relation is asked for."""

    text_a: str
    text_b: str


@dataclass(frozen=True, slots=True)
class Encoded:
    """A tokenised text or pair: `ids` and `type_ids` have the same length, special tokens included."""

    ids: tuple[int, ...]
    type_ids: tuple[int, ...]
    dropped_tokens: int = 0  # cut off to fit the model's limit
    # Worked out once, where texts are tokenised: the queue looks every item up several times.
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.ids, self.type_ids, self.dropped_tokens)))

    def __hash__(self) -> int:
        return self._hash

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class PairResult:
    """One scored pair. `score` in [0, 1]: a cross-encoder's probability of the positive label, or (1 + cosine) / 2 of a
    bi-encoder's two vectors. `logits` (C,): of a cross-encoder."""

    score: float
    tokens: int
    dropped_tokens: int = 0
    logits: F32 | None = field(default=None, compare=False, repr=False)

    @property
    def truncated(self) -> bool:
        return self.dropped_tokens > 0


@dataclass(frozen=True, slots=True)
class Embedding:
    """One embedded text. `vector` (D,): pooled, not normalised."""

    vector: F32
    tokens: int
    dropped_tokens: int = 0

    @property
    def truncated(self) -> bool:
        return self.dropped_tokens > 0


Result = PairResult | Embedding  # of one encoded item


@dataclass(frozen=True, slots=True)
class Prepared:
    """Pairs ready for the queue: the items to compute, and `join`, which makes one result a pair of theirs.

    The lists are not of one length: a bi-encoder computes each distinct text once.
    """

    items: Sequence[Encoded]
    join: Callable[[Sequence[Result | SluiceError]], list[PairResult | SluiceError]]


@dataclass(frozen=True, slots=True)
class JobResult:
    """A request's items in the caller's order; an item that failed alone carries its error.

    `queue_s`: from submission to the first item's compute. `compute_s`: from there to the last item's result.
    """

    items: Sequence[Result | SluiceError]
    queue_s: float
    compute_s: float


class EncoderBackend(Protocol):
    """Padded token ids in, a row of numbers for each sequence out. Thread-safe: several threads may call at once.

    `clock`: on which its caller reads what a call has cost, in seconds: the caller's own CPU time where that does all
    the work, which no other load of the machine blurs; else the time of day.
    """

    clock: Callable[[], float]

    def forward(self, input_ids: I64, attention_mask: I64, token_type_ids: I64, *, alone: bool = False) -> F32:
        """(B, T) each -> (B, N): class logits of a matching graph, pooled vectors of an embedding graph.

        `alone`: no other call runs, so this one may use all cores.
        """
        ...


# ---------------------------------------------------------------- generation


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. The defaults switch everything off but plain sampling; `temperature` 0 is greedy.

    Order of application: `schema`, `min_tokens`, `logit_bias`, penalties, temperature, top-k, top-p, min-p.
    """

    max_tokens: int = 16
    min_tokens: int = 0  # no end token and no stop string before so many
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0  # least probability, as a share of the likeliest token's (Nguyen et al. 2024)
    repetition_penalty: float = 1.0  # of what the prompt or the text holds (CTRL, Keskar et al. 2019)
    presence_penalty: float = 0.0  # of what the text holds already, as OpenAI has it
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token, what is added to its logit)
    seed: int | None = None  # the i-th of several sequences takes seed + i
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None  # report each token's log-probability, and so many of the likeliest
    prompt_logprobs: int | None = None  # the same of the prompt's tokens
    schema: str | None = None  # a JSON schema; the text is a JSON value that it admits


Likeliest = tuple[tuple[int, float], ...]  # (token, natural log-probability), likeliest first


@dataclass(frozen=True, slots=True)
class PromptScores:
    """Log-probabilities of a prompt's tokens, given those before each; the first has none. Lists are as long as it."""

    logprobs: tuple[float | None, ...]
    likeliest: tuple[Likeliest, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token. `text` is what became printable with it: "" while a character or a stop string is open.

    `logprob`, `likeliest`: of the model's own distribution, before temperature, filters and penalties.
    """

    id: int
    text: str
    index: int = 0  # of the sequence, where a request has several
    logprob: float | None = None
    likeliest: Likeliest = ()


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a sequence. `reason`: stop (end token or stop string) | length."""

    reason: str
    text: str  # printable rest, usually ""
    prompt_tokens: int
    completion_tokens: int
    queue_s: float
    prefill_s: float
    decode_s: float
    index: int = 0
    cached_tokens: int = 0  # of the prompt, taken from the cache


# A stream: PromptScores where they are asked for, then Token* and one Finish of each sequence, interleaved; or a
# SluiceError, which ends all of it.
Piece = PromptScores | Token | Finish
Event = Piece | SluiceError


class Constraint(Protocol):
    """What one sequence may say next: the state of a grammar. Called by the engine's thread only, once a step."""

    @property
    def finished(self) -> bool:
        """Nothing but the end may follow. The engine then ends the sequence, with reason `stop`."""
        ...

    def mask(self, logits: F32) -> None:
        """Set to -inf, in place, the logits (V,) of tokens that may not come next; end tokens only where it may end."""
        ...

    def accept(self, token: int) -> None:
        """The sequence goes on with `token`, which `mask` let through; never an end token."""
        ...


# A schema's text -> a constraint for one new sequence. Called where requests are submitted, by any thread.
# Raises InvalidInput (param `schema`) for a schema that is malformed or not supported.
Constrain = Callable[[str], Constraint]


class GenerationBackend(Protocol):
    """A language model with a KV cache of `slots` rows of `context` tokens. Called by one thread only.

    Running sequences occupy slots 0..n-1, so a decode step is a contiguous view of the cache. A row's outcome is the
    same, bit by bit, whatever the other rows of a call are, and whichever calls of `prefill` of at least two tokens its
    prompt was cut into: the engine relies on both. A call of one token may round otherwise.

    `whole_prompts`: a prompt comes in one call, from its first token on, for its last logits. So it is for an
    encoder-decoder, whose prompt is a source: lengths count it and the text, each of which may have `context` tokens.
    """

    slots: int
    context: int
    vocab_size: int
    whole_prompts: bool

    def prefill(self, slot: int, ids: Sequence[int], start: int = 0, all_logits: bool = False) -> F32:
        """Append `ids` to `slot`, which holds `start` tokens -> (1, V), or (T, V) with `all_logits`."""
        ...

    def decode(self, tokens: I64, lengths: I64) -> F32:
        """Append one token to each of slots 0..n-1, which hold `lengths` tokens: (n,), (n,) -> (n, V)."""
        ...

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of slot `source` over slot `target`."""
        ...

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchange the first `length` tokens of two slots; what lies after them is lost in both."""
        ...


# ---------------------------------------------------------------- both


@dataclass(frozen=True, slots=True)
class Limits:
    """What one engine accepts at once. Items are pairs, or sequences of a generation engine."""

    max_items: int = 4096  # queued and running
    max_tokens: int = 400_000  # queued and running, padding not counted
    batch_tokens: int = 2048  # most padded tokens of one encoder batch; the cost model chooses below
    batch_items: int = 32
    cache_items: int = 0  # results of an encoder kept for equal items; 0: none
    target_wait_s: float = 0.5  # saturation is 1 when a newcomer would wait this long


@dataclass(frozen=True, slots=True)
class Load:
    """A snapshot of the work in flight.

    `saturation`: time to finish it at the measured rate, over `Limits.target_wait_s`; for generation, sequences in
    flight over slots. 1 means full; the autoscaling signal for both.
    """

    queued_items: int
    queued_tokens: int
    running_items: int
    running_tokens: int
    saturation: float


class Submitted(Protocol):
    """A request that an engine has taken in, as its caller sees it."""

    @property
    def stage(self) -> str:
        """`queued` until it has a slot, then `running`."""
        ...

    def times(self) -> tuple[float, float]:
        """Seconds in the queue, and since it has a slot, up to now."""
        ...

    def cancel(self) -> None:
        """The caller left: free its slots within a step. Does nothing to what has ended. From any thread."""
        ...


GenerationEngineName = Literal["onnx", "vllm"]


class TextEngine(Protocol):
    """What serving and batch jobs need of an engine that generates, whoever computes. Thread-safe.

    `slots`: sequences that run at once, each of up to `context` tokens, prompt and text together; of an
    encoder-decoder, the one and the other.
    """

    manifest: Manifest
    tokenizer: Tokenizer
    limits: Limits
    slots: int
    context: int

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt; an empty one becomes the model's begin (or end) token. Raises InvalidInput."""
        ...

    @property
    def capacity(self) -> int:
        """Tokens that the cache has room for."""
        ...

    def room(self, prompt_tokens: int) -> int:
        """How many tokens may follow a prompt of so many; below 1 where it is too long."""
        ...

    def submit(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        sink: Callable[[Event], None],
        *,
        n: int = 1,
        deadline: float | None = None,
    ) -> Submitted:
        """Queue a prompt for `n` sequences, which need a slot each at the same time. `deadline`: of time.monotonic().

        Events go to `sink` from the engine's thread and end with the nth Finish, or with one SluiceError.
        Raises InvalidInput (setting, token id, schema), TooManyTokens, Overloaded, NotReady; never waits.
        """
        ...

    def generate(self, prompt: str, sampling: Sampling) -> Iterator[Piece]:
        """Stream one completion, blocking. Raises what `submit` raises, and the stream's own error."""
        ...

    def load(self) -> Load:
        """Sequences and cache tokens in flight."""
        ...

    def warm_up(self) -> None:
        """Run once, so that the first request pays for nothing. Raises BackendFailed."""
        ...

    def close(self) -> None:
        """Refuse new work, finish what runs and waits, let go of the model."""
        ...


class Observer(Protocol):
    """Where an engine reports what happened; serving turns these into metrics. Called from engine threads."""

    def observe(self, event: str, value: float, **labels: Any) -> None:
        """`event` names: queue_s, batch_items, batch_tokens, padding_ratio, compute_s, ttft_s, inter_token_s,
        prompt_tokens, of which prefix_tokens were found in the cache and prefill_tokens computed, generated_tokens;
        and counts: shed, cancelled (label `stage`), finished (label `reason`), coalesced (items that joined an equal
        one in flight), cache (label `outcome`: hit or miss)."""
        ...


class Silent:
    """An observer that nobody listens to."""

    def observe(self, event: str, value: float, **labels: Any) -> None:
        """Ignore the event."""
