"""What a generation engine takes, whoever computes: text as token ids, settings and prompts that fit, no more than its
limits allow. The engines inherit it (`runtime/generation.py`, `runtime/backends/vllm.py`); it runs nothing itself."""

from __future__ import annotations

import queue
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial

from tokenizers import Tokenizer

from runtime.contract import Event, Finish, Limits, Load, Observer, Piece, PromptScores, Sampling, Silent, Submitted
from runtime.errors import InvalidInput, Overloaded, SluiceError, TooManyTokens
from runtime.manifest import CausalShape, Manifest
from runtime.sampling import check
from runtime.scheduler import safely
from runtime.text import check_text
from runtime.ticket import Sink, Submission


class Intake(ABC):
    """The callers' side of a `TextEngine`. `slots`: sequences that run at once, each of up to `context` tokens."""

    def __init__(
        self,
        manifest: Manifest,
        shape: CausalShape,
        tokenizer: Tokenizer,
        *,
        slots: int,
        context: int,
        limits: Limits | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.slots = slots
        self.context = context
        self.limits = limits or Limits(max_items=64, max_tokens=65_536)
        self._shape = shape
        self._observer = observer or Silent()
        self._note = partial(safely, self._observer.observe)

    @property
    def has_source(self) -> bool:
        """Whether the model is an encoder-decoder, whose prompt is a source."""
        return self._shape.has_source

    @property
    def capacity(self) -> int:
        """Tokens that the cache has room for."""
        return self.slots * self.context * (2 if self.has_source else 1)

    def room(self, prompt_tokens: int) -> int:
        """How many tokens may follow a prompt of so many; below 1 where it is too long."""
        if not self.has_source:
            return self.context - prompt_tokens
        # The last token of a text is never put into the cache, the first comes after the start.
        return self.context + 1 - len(self._shape.start_token_ids) if prompt_tokens <= self.context else 0

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt; an empty one becomes the model's begin (or end) token. Raises InvalidInput."""
        check_text(prompt, "prompt")
        # As a batch of one: only the batch functions let other threads run meanwhile.
        ids: list[int] = self.tokenizer.encode_batch_fast([prompt])[0].ids
        if ids:
            return ids
        starts = [self._shape.bos_token_id, *self._shape.eos_token_ids]
        start = next((token for token in starts if token is not None), None)
        if start is None:
            raise InvalidInput("The prompt is empty and this model has no begin token; send some text.", param="prompt")
        return [start]

    @abstractmethod
    def submit(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        sink: Sink,
        *,
        n: int = 1,
        deadline: float | None = None,
    ) -> Submitted:
        """See `TextEngine`."""

    def generate(self, prompt: str, sampling: Sampling) -> Iterator[Piece]:
        """Stream one completion, blocking. Raises what `submit` raises, and the stream's own error."""
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        ticket = self.submit(self.encode(prompt), sampling, events.put)
        try:
            while True:
                event = events.get()
                if isinstance(event, SluiceError):
                    raise event
                yield event
                if isinstance(event, Finish):
                    return
        finally:
            ticket.cancel()

    def log_probs(self, ids: Sequence[int]) -> list[float]:
        """Natural log p(ids[i] | ids[:i]) for i = 1 … len - 1, blocking. Raises what `submit` raises."""
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.submit(ids, Sampling(max_tokens=0, prompt_logprobs=0), events.put)
        scores = events.get()
        if isinstance(scores, SluiceError):
            raise scores
        assert isinstance(scores, PromptScores)
        return [value for value in scores.logprobs if value is not None]

    def _check(self, prompt: Sequence[int], sampling: Sampling, n: int) -> None:
        """Raises InvalidInput and TooManyTokens."""
        check(sampling, self._shape.vocab_size)
        if not 1 <= n <= self.slots:
            raise InvalidInput(
                f"n is {n}; it must be from 1 to {self.slots}, the sequences that run at once.", param="n"
            )
        if not prompt:
            raise InvalidInput("The prompt has no tokens; send at least one.", param="prompt")
        if self.has_source:
            self._check_source(prompt, sampling)
        elif len(prompt) + sampling.max_tokens > self.context:
            raise TooManyTokens(
                f"The prompt has {len(prompt)} tokens and max_tokens is {sampling.max_tokens}; this model's context is "
                f"{self.context} tokens. Shorten the prompt or lower max_tokens.",
                param="prompt" if len(prompt) >= self.context else "max_tokens",
            )
        wrong = next((token for token in prompt if not 0 <= token < self._shape.vocab_size), None)
        if wrong is not None:
            raise InvalidInput(f"Token {wrong} is outside the vocabulary of {self._shape.vocab_size}.", param="prompt")

    def _check_source(self, prompt: Sequence[int], sampling: Sampling) -> None:
        """Raises InvalidInput and TooManyTokens."""
        if sampling.prompt_logprobs is not None:
            raise InvalidInput(
                "prompt_logprobs: this model is an encoder-decoder, which reads its prompt as a whole and says no "
                "probabilities of it. Leave it out.",
                param="prompt_logprobs",
            )
        if len(prompt) > self.context:
            raise TooManyTokens(
                f"The prompt has {len(prompt)} tokens; this model reads a source of at most {self.context}. Shorten "
                "the prompt.",
                param="prompt",
            )
        if sampling.max_tokens > (most := self.room(len(prompt))):
            raise TooManyTokens(
                f"max_tokens is {sampling.max_tokens}; this model writes a text of at most {most} tokens. Lower "
                "max_tokens.",
                param="max_tokens",
            )

    def _load(self, waiting: Sequence[Submission], running_items: int, running_tokens: int) -> Load:
        """Sequences in flight, and the tokens that they hold or may come to need; 1 is as many as there are slots."""
        queued = sum(each.slots for each in waiting)
        return Load(
            queued_items=queued,
            queued_tokens=sum(each.reserved for each in waiting),
            running_items=running_items,
            running_tokens=running_tokens,
            saturation=round((queued + running_items) / self.slots, 4),
        )

    def _admit(self, asked: Submission, waiting: Sequence[Submission], wait_s: float) -> None:
        """Raises Overloaded where no more may wait, or a slot, expected in `wait_s`, comes after the deadline."""
        items = sum(each.slots for each in waiting)
        tokens = sum(each.reserved for each in waiting)
        problem = None
        if items + asked.slots > self.limits.max_items:
            problem = f"{items} sequences wait and this is {asked.slots} more; {self.limits.max_items} may wait"
        elif tokens + asked.reserved > self.limits.max_tokens:
            problem = (
                f"{tokens} tokens wait and this request may need {asked.reserved}; {self.limits.max_tokens} may wait"
            )
        elif asked.deadline is not None and time.monotonic() + wait_s > asked.deadline:
            problem = f"a slot is expected in {wait_s:.2f} s, later than this request's deadline"
        if problem:
            self._note("shed", 1)
            raise Overloaded(f"Overloaded: {problem}. Retry later.", retry_after_s=wait_s)
