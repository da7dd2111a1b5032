"""What every engine that generates must hold, whoever computes. An engine's test class inherits this and gives the
fixture `engine`: SLOTS slots, room for 2 waiting sequences, a vocabulary of bytes with the end token 256."""

from __future__ import annotations

import json
import queue
import threading
import time

import pytest

from runtime.contract import Event, Finish, Limits, PromptScores, Sampling, TextEngine, Token
from runtime.errors import Cancelled, DeadlineExceeded, InvalidInput, NotReady, Overloaded, SluiceError, TooManyTokens

SLOTS = 4
LIMITS = Limits(max_items=2, max_tokens=65_536)
PROMPT = list(b"Once upon a time")
GREEDY = Sampling(max_tokens=8, temperature=0, ignore_eos=True)
LONG = Sampling(max_tokens=100, temperature=0, ignore_eos=True)
SCHEMA = json.dumps({"enum": ["yes", "no"]})


def stream(engine: TextEngine, prompt: list[int], sampling: Sampling, n: int = 1) -> list[Event]:
    """All events of a request, up to the nth Finish or its error."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    engine.submit(prompt, sampling, events.put, n=n)
    return rest(events, n)


def rest(events: queue.SimpleQueue[Event], n: int = 1) -> list[Event]:
    found: list[Event] = []
    while sum(isinstance(event, Finish) for event in found) < n:
        found.append(events.get(timeout=60))
        if isinstance(found[-1], SluiceError):
            break
    return found


def tokens(events: list[Event], index: int = 0) -> list[int]:
    return [event.id for event in events if isinstance(event, Token) and event.index == index]


def text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Token | Finish))


class GenerationEngineContract:
    """A stream is its tokens and its end; refusals come before work; who leaves makes room."""

    def test_a_stream_is_its_tokens_and_its_end(self, engine: TextEngine) -> None:
        *found, finish = stream(engine, PROMPT, GREEDY)
        assert isinstance(finish, Finish)
        assert all(isinstance(event, Token) for event in found)
        assert (finish.reason, finish.prompt_tokens, finish.completion_tokens) == ("length", len(PROMPT), 8)
        assert len(tokens(found)) == 8
        assert min(finish.queue_s, finish.prefill_s, finish.decode_s) >= 0
        assert tokens(stream(engine, PROMPT, GREEDY)) == tokens(found)

    def test_several_sequences_are_told_apart_and_each_has_a_seed_of_its_own(self, engine: TextEngine) -> None:
        sampling = Sampling(max_tokens=8, seed=3, ignore_eos=True)
        together = stream(engine, PROMPT, sampling, n=3)
        assert sorted(event.index for event in together if isinstance(event, Finish)) == [0, 1, 2]
        alone = stream(engine, PROMPT, Sampling(max_tokens=8, seed=5, ignore_eos=True))
        assert tokens(together, 2) == tokens(alone)
        assert tokens(together, 0) != tokens(together, 1)

    def test_a_stop_string_ends_the_text_before_it(self, engine: TextEngine) -> None:
        whole = text(stream(engine, list(b"abcd"), LONG))
        stop = whole[10:12]
        events = stream(engine, list(b"abcd"), Sampling(max_tokens=100, temperature=0, ignore_eos=True, stop=(stop,)))
        assert text(events) == whole[: whole.index(stop)]
        assert isinstance(events[-1], Finish)
        assert events[-1].reason == "stop"

    def test_log_probabilities_of_prompt_and_text(self, engine: TextEngine) -> None:
        sampling = Sampling(max_tokens=3, temperature=0, ignore_eos=True, logprobs=2, prompt_logprobs=1)
        scores, *found = stream(engine, PROMPT, sampling)
        assert isinstance(scores, PromptScores)
        assert (len(scores.logprobs), len(scores.likeliest)) == (len(PROMPT), len(PROMPT))
        assert scores.logprobs[0] is None
        assert all(value is not None and value <= 0 for value in scores.logprobs[1:])
        for token in found[:-1]:
            assert isinstance(token, Token)
            assert len(token.likeliest) == 2
            assert token.likeliest[0] == (token.id, token.logprob)  # greedy

    def test_a_prompt_can_be_scored_without_a_text(self, engine: TextEngine) -> None:
        scores, finish = stream(engine, PROMPT, Sampling(max_tokens=0, prompt_logprobs=0))
        assert isinstance(scores, PromptScores)
        assert isinstance(finish, Finish)
        assert (finish.reason, finish.completion_tokens) == ("length", 0)

    def test_a_schema_is_kept(self, engine: TextEngine) -> None:
        events = stream(engine, PROMPT, Sampling(max_tokens=40, temperature=1, seed=1, schema=SCHEMA))
        assert isinstance(events[-1], Finish)
        assert events[-1].reason == "stop"
        assert json.loads(text(events)) in ("yes", "no")

    @pytest.mark.parametrize(
        ("prompt", "sampling", "n", "error"),
        [
            ([], GREEDY, 1, InvalidInput),
            ([258], GREEDY, 1, InvalidInput),
            (PROMPT, GREEDY, SLOTS + 1, InvalidInput),
            (PROMPT, Sampling(temperature=3), 1, InvalidInput),
            (PROMPT, Sampling(schema="{"), 1, InvalidInput),
            (PROMPT, Sampling(max_tokens=10_000), 1, TooManyTokens),
        ],
    )
    def test_what_cannot_be_done_is_refused_before_anything_runs(
        self, engine: TextEngine, prompt: list[int], sampling: Sampling, n: int, error: type[SluiceError]
    ) -> None:
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        with pytest.raises(error):
            engine.submit(prompt, sampling, events.put, n=n)
        assert events.empty()
        assert engine.load().saturation == 0

    def test_a_full_queue_refuses_and_who_leaves_makes_room(self, engine: TextEngine) -> None:
        held = [queue.SimpleQueue[Event]() for _ in range(3)]
        begun, go_on = threading.Event(), threading.Event()

        def hold(event: Event) -> None:  # the engine's thread, at its first token
            held[0].put(event)
            begun.set()
            go_on.wait(60)

        running = engine.submit(PROMPT, LONG, hold, n=SLOTS)
        assert begun.wait(60)
        waiting = [engine.submit(PROMPT, LONG, events.put) for events in held[1:]]
        with pytest.raises(Overloaded):
            engine.submit(PROMPT, LONG, held[0].put)
        assert engine.load().saturation > 1
        waiting[0].cancel()
        running.cancel()
        go_on.set()
        assert isinstance(rest(held[0], SLOTS)[-1], Cancelled)
        assert isinstance(rest(held[1])[-1], Cancelled)
        assert isinstance(rest(held[2])[-1], Finish)
        assert waiting[1].stage == "running"

    def test_a_deadline_ends_a_stream(self, engine: TextEngine) -> None:
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        engine.submit(PROMPT, LONG, events.put, deadline=time.monotonic() + 0.001)
        assert isinstance(rest(events)[-1], DeadlineExceeded)
        assert len(tokens(stream(engine, PROMPT, GREEDY))) == 8

    def test_a_closed_engine_has_finished_its_work_and_takes_none(self, engine: TextEngine) -> None:
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        engine.submit(PROMPT, GREEDY, events.put)
        engine.close()
        assert isinstance(rest(events)[-1], Finish)
        with pytest.raises(NotReady):
            engine.submit(PROMPT, GREEDY, events.put)
