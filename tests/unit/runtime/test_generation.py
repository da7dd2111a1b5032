"""Continuous batching: streams are what they would be alone, slots are freed, trouble stays with its cause."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.backends.fake import END, byte_tokenizer
from runtime.contract import F32, I64, Event, Finish, Limits, Sampling, Token
from runtime.errors import (
    BackendFailed,
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    NotReady,
    Overloaded,
    SluiceError,
    TooManyTokens,
)
from runtime.generation import GenerationEngine
from runtime.manifest import CausalShape, Manifest

pytestmark = pytest.mark.unit
VOCABULARY = 258
CONTEXT = 48


class Remembering:
    """A backend whose next-token logits are a hash of everything in the slot: any mix-up of slots shows at once.

    `gate` holds every call back while it is closed; token 13 in a prompt breaks its prefill.
    """

    def __init__(self, slots: int) -> None:
        self.slots, self.context, self.vocab_size = slots, CONTEXT, VOCABULARY
        self.rows: list[list[int]] = [[] for _ in range(slots)]
        self.gate = threading.Event()
        self.gate.set()
        self.widths: list[int] = []

    def logits(self, row: list[int]) -> F32:
        random = np.random.default_rng([len(row), *row])
        logits = random.normal(size=self.vocab_size).astype(np.float32)
        logits[END] = -10
        return logits

    def prefill(self, slot: int, ids: Sequence[int], start: int = 0, all_logits: bool = False) -> F32:
        assert self.gate.wait(10)
        if 13 in ids:
            raise RuntimeError("this prompt breaks the model")
        self.rows[slot] = [*self.rows[slot][:start], *ids]
        ends = range(start + 1, start + len(ids) + 1) if all_logits else [start + len(ids)]
        return np.stack([self.logits(self.rows[slot][:end]) for end in ends])

    def decode(self, tokens: I64, lengths: I64) -> F32:
        assert self.gate.wait(10)
        self.widths.append(len(tokens))
        for slot, (token, length) in enumerate(zip(tokens, lengths, strict=True)):
            assert len(self.rows[slot]) >= length, "the engine lost count of a slot"
            self.rows[slot] = [*self.rows[slot][:length], int(token)]
        return np.stack([self.logits(self.rows[slot]) for slot in range(len(tokens))])

    def move(self, source: int, target: int, length: int) -> None:
        assert len(self.rows[source]) >= length
        self.rows[target] = self.rows[source][:length]

    def swap(self, one: int, other: int, length: int) -> None:
        self.rows[one], self.rows[other] = self.rows[other][:length], self.rows[one][:length]


def make(slots: int = 3, limits: Limits | None = None) -> tuple[GenerationEngine, Remembering]:
    shape = CausalShape(layers=1, kv_heads=1, head_dim=16, vocab_size=VOCABULARY, eos_token_ids=(END,))
    manifest = Manifest.model_validate(
        {
            "kind": "generation", "format": "fake", "architecture": "fake", "precision": "fp32",
            "max_tokens": CONTEXT, "files": {}, "created": "2026-01-01T00:00:00Z", "causal": shape,
        }
    )  # fmt: skip
    backend = Remembering(slots)
    return GenerationEngine(manifest, shape, byte_tokenizer(pairs=False), backend, limits=limits), backend


def drain(events: queue.SimpleQueue[Event]) -> tuple[list[int], Finish | SluiceError]:
    tokens = []
    while isinstance(event := events.get(timeout=10), Token):
        tokens.append(event.id)
    return tokens, event


def alone(prompt: list[int], sampling: Sampling) -> list[int]:
    engine, _ = make(slots=1)
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    engine.submit(prompt, sampling, events.put)
    tokens, _ = drain(events)
    engine.close()
    return tokens


requests = st.lists(
    st.tuples(
        st.lists(st.integers(14, 255), min_size=1, max_size=12),
        st.builds(
            Sampling,
            max_tokens=st.integers(1, 20),
            temperature=st.sampled_from([0.0, 0.7, 1.3]),
            top_k=st.sampled_from([0, 5]),
            seed=st.integers(0, 99),
        ),
        st.sampled_from([0, 0, 0, 1, 3]),  # tokens after which the caller leaves; 0: stays
    ),
    min_size=1,
    max_size=9,
)


@settings(max_examples=25)
@given(requests, st.integers(1, 4))
def test_a_stream_is_the_same_alone_and_in_company(requests: list[tuple[list[int], Sampling, int]], slots: int) -> None:
    engine, _ = make(slots)
    queues = []
    for prompt, sampling, leaves_after in requests:
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        ticket = engine.submit(prompt, sampling, events.put)
        if leaves_after:
            for _ in range(min(leaves_after, sampling.max_tokens)):
                events.get(timeout=10)
            ticket.cancel()
        queues.append(events)
    for (prompt, sampling, leaves_after), events in zip(requests, queues, strict=True):
        tokens, last = drain(events)
        if leaves_after:
            assert isinstance(last, Cancelled | Finish)
        else:
            assert isinstance(last, Finish)
            assert tokens == alone(prompt, sampling)
            assert (last.prompt_tokens, last.completion_tokens) == (len(prompt), sampling.max_tokens)
    engine.close()
    load = engine.load()
    assert (load.queued_items, load.running_items, load.saturation) == (0, 0, 0)


def test_a_newcomer_joins_while_others_run() -> None:
    engine, backend = make(slots=2)
    backend.gate.clear()
    queues = [queue.SimpleQueue[Event]() for _ in range(2)]
    engine.submit([20], Sampling(max_tokens=20), queues[0].put)
    engine.submit([30], Sampling(max_tokens=3), queues[1].put)
    backend.gate.set()
    for events in queues:
        drain(events)
    assert 2 in backend.widths
    assert backend.widths[-1] == 1
    engine.close()


def test_a_full_engine_refuses_with_the_time_to_come_back() -> None:
    engine, backend = make(slots=1, limits=Limits(max_items=1, max_tokens=1000))
    engine.warm_up()
    backend.gate.clear()
    sinks = [queue.SimpleQueue[Event]() for _ in range(2)]
    engine.submit([20], Sampling(), sinks[0].put)
    while not engine.load().running_items:
        time.sleep(0.001)
    engine.submit([20], Sampling(), sinks[1].put)
    with pytest.raises(Overloaded, match="1 sequences wait and this is 1 more; 1 may") as caught:
        engine.submit([20], Sampling(), print)
    assert caught.value.retry_after_s > 0
    backend.gate.set()
    for sink in sinks:
        assert isinstance(drain(sink)[1], Finish)
    engine.close()


def test_a_prompt_that_breaks_the_model_fails_alone() -> None:
    engine, _ = make()
    good, bad = queue.SimpleQueue[Event](), queue.SimpleQueue[Event]()
    engine.submit([20, 21], Sampling(max_tokens=10), good.put)
    engine.submit([20, 13], Sampling(max_tokens=10), bad.put)
    assert isinstance(drain(bad)[1], BackendFailed)
    assert isinstance(drain(good)[1], Finish)
    engine.close()


def test_a_deadline_ends_a_stream_in_the_middle() -> None:
    engine, backend = make()
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    backend.gate.clear()
    engine.submit([20], Sampling(max_tokens=40), events.put, deadline=time.monotonic() + 0.05)
    time.sleep(0.06)
    backend.gate.set()
    tokens, last = drain(events)
    assert isinstance(last, DeadlineExceeded)
    assert len(tokens) < 40
    engine.close()


def test_a_sink_that_raises_frees_its_slot() -> None:
    engine, _ = make(slots=1)

    def gone(event: Event) -> None:
        raise ConnectionError

    engine.submit([20], Sampling(max_tokens=40), gone)
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    engine.submit([21], Sampling(max_tokens=2), events.put)
    assert isinstance(drain(events)[1], Finish)
    engine.close()


def test_stop_strings_end_a_stream_and_are_not_shown() -> None:
    engine, _ = make()
    prompt, free = "abc", Sampling(max_tokens=30, temperature=0)
    text = "".join(event.text for event in engine.generate(prompt, free))
    stop = text[10:12]
    stopped = list(engine.generate(prompt, Sampling(max_tokens=30, temperature=0, stop=(stop,))))
    assert "".join(event.text for event in stopped) == text[: text.index(stop)]
    assert isinstance(stopped[-1], Finish)
    assert stopped[-1].reason == "stop"
    engine.close()


def test_a_stop_string_that_only_the_end_completes_is_why_it_ended() -> None:
    first = Sampling(max_tokens=1, temperature=0)
    # The first byte of a character that never comes is shown as U+FFFD, at the end.
    prompt = next(chr(start) for start in range(32, 127) if 0xC2 <= alone([start], first)[0] < 0xF5)
    engine, _ = make()
    (_, last) = engine.generate(prompt, Sampling(max_tokens=1, temperature=0, stop=("\ufffd",)))
    engine.close()
    assert isinstance(last, Finish)
    assert (last.text, last.reason) == ("", "stop")


def test_log_probs_are_those_of_the_logits_and_may_run_beside_streams() -> None:
    engine, backend = make()
    stream = engine.generate("running", Sampling(max_tokens=40))
    next(stream)
    ids = [20, 21, 22, 23]
    expected = []
    for end in range(1, 4):
        row = backend.logits(ids[:end]).astype(np.float64)
        expected.append(row[ids[end]] - np.log(np.exp(row).sum()))
    assert np.allclose(engine.log_probs(ids), expected)
    assert sum(isinstance(event, Token) for event in stream) == 39
    engine.close()


@pytest.mark.parametrize(
    ("prompt", "sampling", "error", "message"),
    [
        ([], Sampling(), InvalidInput, "no tokens"),
        ([999], Sampling(), InvalidInput, "outside the vocabulary of 258"),
        ([20] * 47, Sampling(max_tokens=2), TooManyTokens, "has 47 tokens and max_tokens is 2.*context is 48"),
        ([20], Sampling(top_p=0), InvalidInput, "top_p"),
    ],
)
def test_what_cannot_be_served_is_refused_before_it_is_queued(
    prompt: list[int], sampling: Sampling, error: type, message: str
) -> None:
    engine, _ = make()
    with pytest.raises(error, match=message):
        engine.submit(prompt, sampling, print)
    engine.close()


def test_close_finishes_what_runs_and_refuses_the_rest() -> None:
    engine, _ = make()
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    engine.submit([20], Sampling(max_tokens=20), events.put)
    engine.close()
    assert isinstance(drain(events)[1], Finish)
    with pytest.raises(NotReady):
        engine.submit([20], Sampling(), print)
