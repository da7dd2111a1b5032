"""The simulated users: what each sends, how it reads the answer, and how it behaves when it is refused.

Importing this module imports Locust, which patches the standard library for gevent; only drive.py does, and only in
the process of a run. Users are closed-loop: one request at a time, the next as soon as the last has ended.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from locust import User, task
from locust.exception import StopUser

from loadtests.connection import Answer, Connection, TransportFailure
from loadtests.observations import Failure, Ledger, Observation, Outcome
from loadtests.settings import Kind, RunSettings
from loadtests.texts import TextSource
from loadtests.wire import (
    Malformed,
    StreamReader,
    check_match,
    check_rerank,
    read_error,
    read_retry_after,
    read_server_timing,
)

# After a 429 or 503 that does not say when to come back, and after an answer that never came: a client that tried
# again at once would measure its own loop.
DEFAULT_PAUSE_S = 1.0
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Job:
    """What all users of a run share."""

    run_id: str
    settings: RunSettings
    models: Mapping[Kind, str]
    headers: Mapping[str, str]
    ledger: Ledger
    numbers: Mapping[Kind, Iterator[int]]


def new_numbers() -> dict[Kind, Iterator[int]]:
    """Return the counters that number the users of each kind from 0."""
    return {kind: itertools.count() for kind in Kind}


class LoadUser(User):
    """A user that sends one kind of request until the window closes. Its abstract methods raise NotImplementedError:
    Locust's own metaclass leaves no place for ABC's."""

    abstract = True
    kind: ClassVar[Kind]
    path: ClassVar[str]
    job: ClassVar[Job]

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        settings = self.job.settings
        self.number = next(self.job.numbers[self.kind])
        words = settings.prompt_words if self.kind is Kind.COMPLETION else settings.text_words
        self.texts = TextSource(settings.seed, self.kind, self.number, words)
        self.connection = Connection(settings.host, settings.timeout_s, self.job.headers)
        self.sent = 0
        self.pause_s = 0.0

    def wait_time(self) -> float:
        """Return the seconds until the next request: 0, or what a refusal asked for."""
        return self.pause_s

    def on_stop(self) -> None:
        """Close the connection."""
        self.connection.close()

    @task
    def send(self) -> None:
        """Send one request and keep what it showed."""
        body, asked = self.compose()
        request_id = f"{self.job.run_id}-{self.kind}-{self.number}-{self.sent}"
        self.sent += 1
        started = time.perf_counter()
        if not self.job.ledger.begin(started):
            raise StopUser
        observation = self._exchange(json.dumps(body).encode(), asked, request_id, started)
        self.job.ledger.end(observation)
        self.pause_s = _pause_s(observation)
        self.environment.events.request.fire(
            request_type="POST",
            name=self.path,
            response_time=observation.latency_s * 1000,
            response_length=0,
            exception=None if observation.failure is None else RuntimeError(observation.failure.code),
            context={"observation": observation},
        )

    def compose(self) -> tuple[dict[str, Any], int]:
        """Return the next request body, and how many pairs, documents or tokens at most it asks for."""
        raise NotImplementedError

    def read(self, answer: Answer, seen: Observation) -> Observation:
        """Read an answer of status 200; returns what was seen with the figures of this kind, raises Malformed."""
        raise NotImplementedError

    def _exchange(self, body: bytes, asked: int, request_id: str, started: float) -> Observation:
        seen = Observation(self.kind, request_id, started, 0.0, 0, Outcome.ERROR, asked)
        try:
            with self.connection.exchange("POST", self.path, body, {**JSON, "X-Request-ID": request_id}) as answer:
                seen = replace(
                    seen,
                    status=answer.status,
                    retry_after_s=read_retry_after(answer.headers.get("retry-after")),
                    server_ms=read_server_timing(answer.headers.get("server-timing")),
                )
                if answer.status == 200:
                    return self.read(answer, seen)
                code, message = read_error(answer.read())
                outcome = Outcome.SHED if answer.status == 429 else Outcome.ERROR
                failure = Failure(f"http.{answer.status}", message, code)
        except TransportFailure as error:
            outcome, failure = Outcome.ERROR, Failure(error.code, str(error))
        except Malformed as error:
            outcome, failure = Outcome.ERROR, Failure(error.code, str(error), error.server_code)
        return replace(seen, latency_s=time.perf_counter() - started, outcome=outcome, failure=failure)


class MatchUser(LoadUser):
    """Scores 1 to `items` pairs a request."""

    kind = Kind.MATCH
    path = "/v1/match"

    def compose(self) -> tuple[dict[str, Any], int]:
        """Return a match request over new pairs."""
        pairs = [self.texts.pair() for _ in range(self.texts.number(1, self.job.settings.items))]
        named = [{"text_a": text_a, "text_b": text_b} for text_a, text_b in pairs]
        return {"model": self.job.models[self.kind], "pairs": named, "truncate": True}, len(pairs)

    def read(self, answer: Answer, seen: Observation) -> Observation:
        """Check one score a pair."""
        body = answer.read()
        latency_s = time.perf_counter() - seen.started
        check_match(body, seen.asked)
        return replace(seen, latency_s=latency_s, outcome=Outcome.OK)


class RerankUser(LoadUser):
    """Ranks 1 to `items` documents a request."""

    kind = Kind.RERANK
    path = "/v1/rerank"

    def compose(self) -> tuple[dict[str, Any], int]:
        """Return a rerank request over a new query."""
        query, documents = self.texts.query(self.texts.number(1, self.job.settings.items))
        return {"model": self.job.models[self.kind], "query": query, "documents": documents}, len(documents)

    def read(self, answer: Answer, seen: Observation) -> Observation:
        """Check one score a document, best first."""
        body = answer.read()
        latency_s = time.perf_counter() - seen.started
        check_rerank(body, seen.asked)
        return replace(seen, latency_s=latency_s, outcome=Outcome.OK)


class CompletionUser(LoadUser):
    """Streams completions of a quarter of `max_tokens` to `max_tokens` tokens, and takes the time of each event."""

    kind = Kind.COMPLETION
    path = "/v1/completions"

    def compose(self) -> tuple[dict[str, Any], int]:
        """Return a streaming completion request over a new prompt."""
        most = self.job.settings.max_tokens
        max_tokens = self.texts.number(max(1, most // 4), most)
        body = {
            "model": self.job.models[self.kind],
            "prompt": self.texts.prompt(),
            "max_tokens": max_tokens,
            "temperature": 0.8,
            "seed": self.texts.number(0, 2**31 - 1),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return body, max_tokens

    def read(self, answer: Answer, seen: Observation) -> Observation:
        """Read the stream to its end, which is [DONE]."""
        reader = StreamReader(seen.asked)
        for line, now in answer.lines():
            reader.feed(line, now)
        reader.finish()
        return replace(
            seen,
            latency_s=(reader.done_at or time.perf_counter()) - seen.started,
            outcome=Outcome.OK,
            ttft_s=reader.text_times[0] - seen.started if reader.text_times else None,
            gaps_s=reader.gaps,
            tokens=reader.tokens,
        )


USER_CLASSES: Mapping[Kind, type[LoadUser]] = {
    Kind.MATCH: MatchUser,
    Kind.RERANK: RerankUser,
    Kind.COMPLETION: CompletionUser,
}


def _pause_s(observation: Observation) -> float:
    if observation.outcome is Outcome.OK:
        return 0.0
    if observation.retry_after_s is not None:
        return observation.retry_after_s
    return DEFAULT_PAUSE_S if observation.status in (0, 429, 503) else 0.0
