"""Continuous batching: streams are what they would be alone, slots are freed, trouble stays with its cause."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.backends.fake import END, byte_tokenizer
from runtime.contract import F32, I64, Event, Finish, Limits, PromptScores, Sampling, Token
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
        self.slots, self.context, self.vocab_size, self.whole_prompts = slots, CONTEXT, VOCABULARY, False
        self.rows: list[list[int]] = [[] for _ in range(slots)]
        self.gate = threading.Event()
        self.gate.set()
        self.widths: list[int] = []
        self.calls: list[tuple[str, int]] = []  # p or d, and its tokens
        self.took_s = 0.0

    @property
    def prefilled(self) -> int:
        return sum(size for kind, size in self.calls if kind == "p")

    def log_prob(self, prompt: list[int], place: int) -> float:
        row = self.logits(prompt[:place]).astype(np.float64)
        return float(row[prompt[place]] - np.log(np.exp(row).sum()))

    def logits(self, row: list[int]) -> F32:
        random = np.random.default_rng([len(row), *row])
        logits = random.normal(size=self.vocab_size).astype(np.float32)
        logits[END] = -10
        return logits

    def prefill(self, slot: int, ids: Sequence[int], start: int = 0, all_logits: bool = False) -> F32:
        assert self.gate.wait(10)
        self.calls.append(("p", len(ids)))
        time.sleep(self.took_s * (1 + len(ids) / 5))
        if 13 in ids:
            raise RuntimeError("this prompt breaks the model")
        self.rows[slot] = [*self.rows[slot][:start], *ids]
        ends = range(start + 1, start + len(ids) + 1) if all_logits else [start + len(ids)]
        return np.stack([self.logits(self.rows[slot][:end]) for end in ends])

    def decode(self, tokens: I64, lengths: I64) -> F32:
        assert self.gate.wait(10)
        self.calls.append(("d", len(tokens)))
        time.sleep(self.took_s)
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


def make(slots: int = 3, limits: Limits | None = None, **more: Any) -> tuple[GenerationEngine, Remembering]:
    shape = CausalShape(layers=1, kv_heads=1, head_dim=16, vocab_size=VOCABULARY, eos_token_ids=(END,))
    manifest = Manifest.model_validate(
        {
            "kind": "generation", "format": "fake", "architecture": "fake", "precision": "fp32",
            "max_tokens": CONTEXT, "files": {}, "created": "2026-01-01T00:00:00Z", "causal": shape,
        }
    )  # fmt: skip
    backend = Remembering(slots)
    return GenerationEngine(manifest, shape, byte_tokenizer(pairs=False), backend, limits=limits, **more), backend


Story = tuple[dict[int, list[int]], dict[int, Finish], PromptScores | None]


def drain(events: queue.SimpleQueue[Event], n: int = 1) -> Story:
    """Tokens and Finish of each sequence, and the prompt's scores; of a cancelled one what there is."""
    tokens: dict[int, list[int]] = {}
    finishes: dict[int, Finish] = {}
    scores = None
    while len(finishes) < n:
        event = events.get(timeout=10)
        if isinstance(event, PromptScores):
            assert not tokens
            scores = event
        elif isinstance(event, Token):
            assert event.index not in finishes
            tokens.setdefault(event.index, []).append(event.id)
        elif isinstance(event, Finish):
            finishes[event.index] = event
        else:
            assert isinstance(event, Cancelled)
            break
    return tokens, finishes, scores


def ended(events: queue.SimpleQueue[Event]) -> Finish | SluiceError:
    while isinstance(event := events.get(timeout=10), Token | PromptScores):
        pass
    return event


def run(engine: GenerationEngine, prompt: list[int], sampling: Sampling, n: int = 1) -> Story:
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    engine.submit(prompt, sampling, events.put, n=n)
    return drain(events, n)


def alone(prompt: list[int], sampling: Sampling) -> list[int]:
    engine, _ = make(slots=1)
    tokens = run(engine, prompt, sampling)[0][0]
    engine.close()
    return tokens


BEGINNINGS = [[], list(range(20, 50)), [*range(20, 40), *range(60, 70)]]  # two that are alike for 20 tokens
requests = st.lists(
    st.tuples(
        st.builds(
            lambda beginning, rest: [*beginning, *rest],
            st.sampled_from(BEGINNINGS),
            st.lists(st.integers(14, 255), min_size=1, max_size=6),
        ),
        st.builds(
            Sampling,
            max_tokens=st.integers(1, 12),
            temperature=st.sampled_from([0.0, 0.7, 1.3]),
            top_k=st.sampled_from([0, 5]),
            frequency_penalty=st.sampled_from([0.0, 1.0]),
            seed=st.integers(0, 99),
            prompt_logprobs=st.sampled_from([None, None, 0]),
        ),
        st.integers(1, 4),  # sequences
        st.sampled_from([0, 0, 0, 1, 3]),  # events after which the caller leaves; 0: stays
    ),
    min_size=1,
    max_size=9,
)


@settings(max_examples=40, deadline=None)
@given(requests, st.integers(1, 4))
def test_a_stream_is_the_same_alone_and_in_company(
    requests: list[tuple[list[int], Sampling, int, int]], slots: int
) -> None:
    engine, backend = make(slots)
    queues = []
    for prompt, sampling, n, leaves_after in requests:
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        ticket = engine.submit(prompt, sampling, events.put, n=min(n, slots))
        if leaves_after:
            for _ in range(min(leaves_after, sampling.max_tokens)):
                events.get(timeout=10)
            ticket.cancel()
        queues.append(events)
    for (prompt, sampling, n, leaves_after), events in zip(requests, queues, strict=True):
        if leaves_after:
            drain(events, min(n, slots))
            continue
        texts, finishes, scores = drain(events, min(n, slots))
        for index, text in texts.items():
            assert text == alone(prompt, replace(sampling, seed=(sampling.seed or 0) + index))
            assert finishes[index].completion_tokens == sampling.max_tokens
        if sampling.prompt_logprobs is not None:
            assert scores is not None
            expected = [backend.log_prob(prompt, place) for place in range(1, len(prompt))]
            assert np.allclose(scores.logprobs[1:], expected, atol=1e-5)
    engine.close()
    load = engine.load()
    assert (load.queued_items, load.running_items, load.running_tokens, load.saturation) == (0, 0, 0, 0)


def test_a_prefix_is_computed_once() -> None:
    engine, backend = make(slots=3)
    beginning = list(range(100, 130))
    backend.gate.clear()
    sinks = [queue.SimpleQueue[Event]() for _ in range(6)]
    for number, sink in enumerate(sinks):
        engine.submit([*beginning, 200 + number, 210], Sampling(max_tokens=3), sink.put)
    backend.gate.set()
    finishes = [drain(sink)[1][0] for sink in sinks]
    assert [finish.cached_tokens for finish in finishes] == [0, *[30] * 5]
    assert backend.prefilled == 32 + 5 * 2
    engine.close()


def test_what_a_decode_step_computed_is_not_reused() -> None:
    engine, _ = make(slots=2)
    prompt = list(range(100, 110))
    text = run(engine, prompt, Sampling(max_tokens=10, temperature=0))[0][0]
    _, finishes, _ = run(engine, [*prompt, *text, 20, 21], Sampling(max_tokens=1))
    assert finishes[0].cached_tokens == len(prompt)
    engine.close()


def test_a_prompt_of_known_tokens_is_still_computed_in_part() -> None:
    engine, backend = make(slots=2)
    for _ in range(3):
        _, finishes, _ = run(engine, list(range(100, 120)), Sampling(max_tokens=1))
    assert finishes[0].cached_tokens == 18
    assert backend.prefilled == 20 + 2 * 2
    engine.close()


def test_a_long_prompt_comes_in_chunks_between_the_steps_of_others() -> None:
    engine, backend = make(slots=2)
    backend.took_s = 0.002  # a step; a prefill call takes that and a fifth of it for each token
    engine.warm_up()
    stream = engine.generate("run", Sampling(max_tokens=44))
    next(stream)
    backend.calls.clear()
    run(engine, list(range(60, 100)), Sampling(max_tokens=1))
    list(stream)
    engine.close()
    kinds = "".join(kind for kind, _ in backend.calls)
    sizes = [size for kind, size in backend.calls if kind == "p"]
    assert sum(sizes) == 40
    assert len(sizes) > 1
    assert "pp" not in kinds  # each followed by a step of the other one
    assert min(sizes) >= 2


def test_a_prompt_may_be_scored_without_a_text() -> None:
    engine, backend = make(slots=1)
    prompt = list(range(100, 130))
    run(engine, prompt, Sampling(max_tokens=1))  # scores need all logits: nothing of this is reused
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    engine.submit(prompt, Sampling(max_tokens=0, prompt_logprobs=2), events.put)
    scores, finish = events.get(timeout=10), events.get(timeout=10)
    assert isinstance(scores, PromptScores)
    assert isinstance(finish, Finish)
    assert (finish.completion_tokens, finish.cached_tokens) == (0, 0)
    assert len(scores.logprobs) == len(scores.likeliest) == 30
    assert (scores.logprobs[0], scores.likeliest[0]) == (None, ())
    assert all(len(row) == 2 for row in scores.likeliest[1:])
    assert scores.logprobs[7] == pytest.approx(backend.log_prob(prompt, 7), abs=1e-5)
    engine.close()


def test_a_prompt_leaves_its_slot_between_two_chunks() -> None:
    engine, backend = make(slots=1)
    backend.gate.clear()
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    ticket = engine.submit(list(range(100, 140)), Sampling(max_tokens=4), events.put)
    while not engine.load().running_items:
        time.sleep(0.001)
    ticket.cancel()
    backend.gate.set()
    assert isinstance(events.get(timeout=10), Cancelled)
    assert backend.prefilled < 40
    engine.close()


def test_a_token_that_cannot_be_drawn_fails_its_own_request() -> None:
    class Stubborn:
        finished = False

        def mask(self, logits: F32) -> None:
            logits[:] = -np.inf

        def accept(self, token: int) -> None:
            raise AssertionError("nothing was possible")

    engine, _ = make(constrain=lambda schema: Stubborn())
    good, bad = queue.SimpleQueue[Event](), queue.SimpleQueue[Event]()
    engine.submit([20, 21], Sampling(max_tokens=10), good.put)
    engine.submit([20, 22], Sampling(max_tokens=10, schema="{}"), bad.put, n=2)
    assert isinstance(bad.get(timeout=10), BackendFailed)
    assert bad.empty()
    assert len(drain(good)[0][0]) == 10
    engine.close()


def test_a_constraint_that_is_met_ends_the_text() -> None:
    class Countdown:
        def __init__(self, schema: str) -> None:
            self.left = int(schema)

        @property
        def finished(self) -> bool:
            return self.left == 0

        def mask(self, logits: F32) -> None:
            logits[:200] = -np.inf

        def accept(self, token: int) -> None:
            self.left -= 1

    engine, _ = make(constrain=Countdown)
    texts, finishes, _ = run(engine, [20], Sampling(max_tokens=10, schema="4"), n=2)
    assert all(len(text) == 4 and min(text) >= 200 for text in texts.values())
    assert {finish.reason for finish in finishes.values()} == {"stop"}
    engine.close()


def test_an_observer_that_raises_stops_nothing() -> None:
    class Broken:
        def observe(self, event: str, value: float, **labels: Any) -> None:
            raise KeyError(event)

    engine, _ = make(observer=Broken())
    assert len(run(engine, [20], Sampling(max_tokens=3))[0][0]) == 3
    engine.close()


def test_no_stop_string_before_min_tokens() -> None:
    engine, _ = make()
    free = Sampling(max_tokens=20, temperature=0)
    text = "".join(event.text for event in engine.generate("abc", free) if not isinstance(event, PromptScores))
    pieces = [event for event in engine.generate("abc", replace(free, stop=(text[0],), min_tokens=8))]
    assert sum(isinstance(piece, Token) for piece in pieces) >= 8
    engine.close()


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
        assert isinstance(ended(sink), Finish)
    engine.close()


def test_a_prompt_that_breaks_the_model_fails_alone() -> None:
    engine, _ = make()
    good, bad = queue.SimpleQueue[Event](), queue.SimpleQueue[Event]()
    engine.submit([20, 21], Sampling(max_tokens=10), good.put)
    engine.submit([20, 13], Sampling(max_tokens=10), bad.put)
    assert isinstance(ended(bad), BackendFailed)
    assert isinstance(ended(good), Finish)
    engine.close()


def test_a_deadline_ends_a_stream_in_the_middle() -> None:
    engine, backend = make()
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    backend.gate.clear()
    engine.submit([20], Sampling(max_tokens=40), events.put, deadline=time.monotonic() + 0.05)
    time.sleep(0.06)
    backend.gate.set()
    assert isinstance(ended(events), DeadlineExceeded)
    engine.close()


def test_a_sink_that_raises_frees_its_slot() -> None:
    engine, _ = make(slots=1)

    def gone(event: Event) -> None:
        raise ConnectionError

    engine.submit([20], Sampling(max_tokens=40), gone)
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    engine.submit([21], Sampling(max_tokens=2), events.put)
    assert isinstance(ended(events), Finish)
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
    assert isinstance(ended(events), Finish)
    with pytest.raises(NotReady):
        engine.submit([20], Sampling(), print)
