"""`python -m benchmarks.generation.streams`: plays clients that read streamed completions, and says when tokens came.

A client is a list of requests, one after the other, each due some time after the one before has ended (the first: after
the beginning). What arrives is stamped and searched for the mark of a token's event; nothing is parsed while streams
run, so one process keeps up with any server here. Latency runs from the moment at which a request was due.

Imports nothing of ours but this package's own: it runs in a process of its own.
"""

from __future__ import annotations

import argparse
import heapq
import json
import re
import select
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.connections import CHUNK, Cost, show

TAIL = 4096  # of the body: the usage and the end of the stream stand there
DRAIN_S = 90.0  # after the last moment at which a request may begin
LAST_CHUNK = b"0\r\n\r\n"
DONE = b"data: [DONE]"
COMPLETION_TOKENS = re.compile(rb'"completion_tokens": ?(\d+)')


@dataclass(slots=True)
class Exchange:
    """One request and what came back; seconds count from the beginning. `arrivals`: of each event with the mark."""

    client: int
    due_s: float
    status: int = 0  # 0: broken or unanswered
    arrivals: list[float] = field(default_factory=list)
    ended_s: float | None = None
    tokens: int | None = None  # as the server's usage counts them
    finished: bool = False  # the stream had its end, not only the connection
    retry_after: bool = False


class Reader:
    """Reads one response as it comes."""

    def __init__(self, mark: bytes, exchange: Exchange) -> None:
        self.exchange = exchange
        self._mark = mark
        self._head: bytes | None = b""  # until it is whole
        self._tail = b""
        self._length: int | None = None  # still to come, where the head says so

    def take(self, data: bytes, now_s: float) -> bool:
        """What came at `now_s`; b"" is the end of the connection. True when the response is whole or has ended."""
        ended = not data
        if self._head is not None:
            head, found, data = (self._head + data).partition(b"\r\n\r\n")
            if not found:
                self._head = head
                return ended
            self._read_head(head.lower())
        # A mark may be cut in two; one that was counted is not whole in so short a tail.
        overlap = self._tail[1 - len(self._mark) :]
        self.exchange.arrivals += [now_s] * (overlap + data).count(self._mark)
        self._tail = (self._tail + data)[-TAIL:]
        if self._length is not None:
            self._length -= len(data)
            whole = self._length <= 0
        else:
            whole = self._tail.endswith(LAST_CHUNK)
        if whole or ended:
            self._read_tail(now_s, whole)
        return whole or ended

    def _read_head(self, head: bytes) -> None:
        self._head = None
        self.exchange.status = int(head[9:12])
        self.exchange.retry_after = b"\r\nretry-after:" in head
        found = re.search(rb"\r\ncontent-length: *(\d+)", head)
        self._length = int(found[1]) if found else None

    def _read_tail(self, now_s: float, whole: bool) -> None:
        self.exchange.ended_s = now_s
        counts = COMPLETION_TOKENS.findall(self._tail)
        self.exchange.tokens = int(counts[-1]) if counts else None
        # Not every peer sends [DONE]; usage comes at the end as well.
        self.exchange.finished = whole and (self._length is not None or DONE in self._tail or bool(counts))


def connect(address: tuple[str, int], request: bytes) -> socket.socket:
    """A connection with a request on its way. Raises OSError when it cannot be had or sent."""
    connection = socket.create_connection(address, timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(request)
    connection.setblocking(False)
    return connection


def received(connection: socket.socket) -> bytes:
    """What has come; b"" when the connection has ended or is broken."""
    try:
        return connection.recv(CHUNK)
    except OSError:
        return b""


def play(url: str, clients: list[list[dict[str, Any]]], mark: bytes, seconds: float) -> list[Exchange]:
    """Every client's requests in their order; none begins after `seconds`, those that have begun are read to the end.

    A request is `{"after_s": float, "body": …}`.
    """
    parts = urlsplit(url)
    address = (parts.hostname or "", parts.port or 80)
    requests = [[whole_request(parts.netloc, parts.path, each["body"]) for each in client] for client in clients]
    exchanges: list[Exchange] = []
    plan = [(client[0]["after_s"], number, 0) for number, client in enumerate(clients) if client]
    heapq.heapify(plan)
    epoll = select.epoll()
    streams: dict[int, tuple[socket.socket, Reader, int]] = {}
    begun = time.perf_counter()

    def end(number: int, place: int) -> None:
        if place + 1 < len(clients[number]):
            after_s = clients[number][place + 1]["after_s"]
            heapq.heappush(plan, (time.perf_counter() - begun + after_s, number, place + 1))

    while (plan and plan[0][0] < seconds) or streams:
        now_s = time.perf_counter() - begun
        if now_s > seconds + DRAIN_S:
            break
        while plan and plan[0][0] <= min(now_s, seconds):
            due_s, number, place = heapq.heappop(plan)
            exchanges.append(Exchange(number, due_s))
            try:
                connection = connect(address, requests[number][place])
            except OSError:
                end(number, place)
                continue
            streams[connection.fileno()] = (connection, Reader(mark, exchanges[-1]), place)
            epoll.register(connection.fileno(), select.EPOLLIN)
        wait_s = plan[0][0] - now_s if plan and plan[0][0] < seconds else 1.0
        for descriptor, _ in epoll.poll(max(0.0, min(wait_s, 1.0))):
            connection, reader, place = streams[descriptor]
            if reader.take(received(connection), time.perf_counter() - begun):
                epoll.unregister(descriptor)
                connection.close()
                del streams[descriptor]
                end(reader.exchange.client, place)
    return exchanges


def whole_request(host: str, path: str, body: Any) -> bytes:
    """The bytes of one request; its connection is its own, so a stream is never behind another's."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(content), content)


def main(arguments: list[str]) -> int:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generation.streams", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("clients", type=Path, help="one client a line: a JSON list of {after_s, body}")
    parser.add_argument("--mark", required=True, help="what stands in every event that carries a token, and once")
    parser.add_argument("--seconds", type=float, required=True, help="no request begins later")
    options = parser.parse_args(arguments)
    clients = [json.loads(line) for line in options.clients.read_text(encoding="utf-8").splitlines()]
    cost = Cost()
    exchanges = play(options.url, clients, options.mark.encode(), options.seconds)
    rows = [{name: getattr(each, name) for name in Exchange.__dataclass_fields__} for each in exchanges]
    show({"exchanges": rows, "driver_cpu_share": cost.share()})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
