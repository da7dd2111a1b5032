"""Mixed traffic for a while: memory stays flat, nothing sticks, and every answer is one that may be given.

Clients send texts and prompts of all lengths, rubbish, requests that cannot make their deadline, and leave midway.
`make test` does it for SOAK_SECONDS on models without weights; `make soak` for ten minutes on the models of the store.
"""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e.serving_process import Server, publish, serve

pytestmark = pytest.mark.e2e
SECONDS = float(os.environ.get("SOAK_SECONDS", "15"))
HOME = os.environ.get("SOAK_HOME")  # a model store whose models are served; without it, models made here
CLIENTS = 6  # of each kind of traffic
PATIENCE_S = 30.0
MAY_BE_ANSWERED = {200, 400, 413, 422, 429, 504}
FLAT = 1.05  # of the second quarter's memory, in the last; the first quarter is the warm-up
WORDS = ("card", "declined", "at", "a", "cash machine", "abroad", "and", "the", "top up", "has", "not", "yet")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    home = Path(HOME) if HOME else tmp_path
    if not HOME:
        publish(home, "matching", "matching", latency_s=0.005)
        publish(home, "embedding", "embedding", latency_s=0.002)
        publish(home, "generation", "generation", latency_s=0.002)
    small = {"SLUICE_QUEUE_ITEMS": "200", "SLUICE_GENERATION_QUEUE_ITEMS": "8", "SLUICE_ACCESS_LOG": "false"}
    with serve(home, **small) as running:
        yield running


class Traffic(threading.Thread):
    """One client that draws what it does next until time is up. `statuses`: of what it waited for."""

    def __init__(self, server: Server, seed: int, until: float) -> None:
        super().__init__(daemon=True)
        self.statuses: Counter[int | str] = Counter()
        self._server = server
        self._dice = random.Random(seed)
        self._until = until

    def run(self) -> None:
        while time.monotonic() < self._until:
            path, body, headers = self.request()
            if self._dice.random() < 0.2:
                self.leave(path, body)
            else:
                self.statuses[self.ask(path, body, headers)] += 1

    def request(self) -> tuple[str, bytes, dict[str, str]]:
        """What comes next: path, body, headers. Of the subclasses, each a kind of client."""
        raise NotImplementedError

    def text(self, most: int) -> str:
        """A text of any length up to `most` words, short ones more often."""
        return " ".join(self._dice.choices(WORDS, k=int(most ** self._dice.random())))

    def ask(self, path: str, body: bytes, headers: dict[str, str]) -> int | str:
        """Wait for the whole answer; the status, or what was wrong with it."""
        connection = HTTPConnection("127.0.0.1", self._server.port, timeout=PATIENCE_S)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
            reply = connection.getresponse()
            content = reply.read()
            streamed = "event-stream" in (reply.headers["Content-Type"] or "")
            if streamed and not content.endswith(b"data: [DONE]\n\n") and b'"error"' not in content:
                return "stream cut"
            return reply.status
        except (OSError, HTTPException) as error:
            return repr(error)
        finally:
            connection.close()

    def leave(self, path: str, body: bytes) -> None:
        """Send, perhaps read a little, and go."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self._server.port), timeout=5) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            head += f"Content-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body[: len(body) // self._dice.choice((1, 1, 1, 2))])
            time.sleep(self._dice.uniform(0.001, 0.05))


class Matching(Traffic):
    """Pairs: one to forty, of one to two hundred words."""

    def request(self) -> tuple[str, bytes, dict[str, str]]:
        pairs = [{"text_a": self.text(200), "text_b": self.text(60)} for _ in range(int(40 ** self._dice.random()))]
        kinds = [
            ("/v1/match", {"pairs": pairs, "truncate": True}),
            ("/v1/match", {"pairs": pairs[:1], "truncate": True}),
            ("/v1/match", {"pairs": []}),
            ("/v1/match", {"pairs": pairs, "no_such_field": 1}),
            ("/v1/embeddings", {"input": [pair["text_a"] for pair in pairs]}),
        ]
        path, body = self._dice.choices(kinds, weights=(4, 6, 1, 1, 2))[0]
        deadline = {"X-Request-Deadline-Ms": self._dice.choice(("1", "20", "5000"))}
        return path, json.dumps(body).encode(), deadline


class Generation(Traffic):
    """Completions of one to sixty-four tokens, streamed or not."""

    def request(self) -> tuple[str, bytes, dict[str, str]]:
        body = {
            "prompt": self.text(24),
            "max_tokens": int(64 ** self._dice.random()),
            "temperature": self._dice.choice((0, 0.8)),
            "stream": self._dice.random() < 0.6,
        }
        wrong = [{"max_tokens": 0}, {"max_tokens": 10**6}, {"temperature": -1}, {"no_such_field": 1}]
        if self._dice.random() < 0.1:
            body |= self._dice.choice(wrong)
        deadline = {"X-Request-Deadline-Ms": self._dice.choice(("1", "50", "20000", "20000"))}
        return "/v1/completions", json.dumps(body).encode(), deadline


def test_mixed_traffic_leaves_nothing_behind(server: Server) -> None:
    until = time.monotonic() + SECONDS
    clients = [kind(server, seed, until) for seed in range(CLIENTS) for kind in (Matching, Generation)]
    for client in clients:
        client.start()
    processes = [psutil.Process(server.process.pid), *server.workers()]
    memory = []
    while time.monotonic() < until:
        memory.append(sum(process.memory_info().rss for process in processes))
        time.sleep(SECONDS / 60)
    for client in clients:
        client.join(PATIENCE_S)
        assert not client.is_alive(), "a request got no answer"

    for kind in (Matching, Generation):
        statuses = sum((client.statuses for client in clients if isinstance(client, kind)), Counter())
        assert set(statuses) <= MAY_BE_ANSWERED, statuses
        assert statuses[200] > 0, statuses
        assert statuses[400] + statuses[422] > 0, statuses  # the rubbish was among it
    quarter = len(memory) // 4
    second, last = (sorted(part)[quarter // 2] for part in (memory[quarter : 2 * quarter], memory[-quarter:]))
    assert last <= FLAT * second, f"memory grew from {second / 2**20:.0f} to {last / 2**20:.0f} MiB"

    deadline = time.monotonic() + PATIENCE_S
    while left := in_flight(server):
        assert time.monotonic() < deadline, f"still in flight: {left}"
        time.sleep(0.1)
    assert len(server.workers()) == len(processes) - 1
    assert httpx.post(f"{server.url}/v1/completions", json={"prompt": "a", "max_tokens": 4}).status_code == 200


def in_flight(server: Server) -> list[str]:
    """The samples of the gauges of work that are not zero."""
    names = ("sluice_requests_in_flight", "sluice_queued_", "sluice_running_")
    lines = httpx.get(f"{server.url}/metrics", timeout=PATIENCE_S).text.splitlines()
    return [line for line in lines if line.startswith(names) and float(line.rsplit(" ", 1)[1])]
