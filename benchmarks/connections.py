"""Keep-alive HTTP/1.1 connections on one epoll, for drivers that wrk cannot be. Requests are bytes made beforehand.

Imports nothing of ours but this package's own: it runs in a process of its own.
"""

from __future__ import annotations

import json
import resource
import select
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

CHUNK = 65_536
ONE_ANSWER = select.EPOLLIN | select.EPOLLONESHOT


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response."""

    status: int
    retry_after: bool
    body: bytes


def read_requests(url: str, bodies: Path, headers: dict[str, str] | None = None) -> list[bytes]:
    """Whole requests, one for each line of a file."""
    parts = urlsplit(url)
    lines = {"Host": parts.netloc, "Content-Type": "application/json", **(headers or {})}
    head = f"POST {parts.path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return [
        head.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        for body in bodies.read_bytes().splitlines()
        if body
    ]


class Connection:
    """One connection with at most one request on its way. Raises OSError when the server closes it."""

    __slots__ = ("_buffer", "socket")

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._buffer = b""

    def send(self, request: bytes) -> None:
        """The whole request: it is small against the socket's buffer."""
        if self.socket.send(request) != len(request):
            raise OSError("the socket's buffer is full")

    def receive(self) -> Answer | None:
        """What has come; None while the answer is not whole."""
        received = self.socket.recv(CHUNK)
        if not received:
            raise ConnectionResetError("the server closed the connection")
        self._buffer += received
        answer, used = parse(self._buffer)
        self._buffer = self._buffer[used:]
        return answer


def parse(data: bytes) -> tuple[Answer | None, int]:
    """A response with Content-Length at the beginning of `data`, and how many bytes it takes; None, 0 if not whole."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None, 0
    head = data[:end].lower()
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
    whole = end + 4 + length
    if len(data) < whole:
        return None, 0
    return Answer(int(data[9:12]), b"\r\nretry-after:" in head, data[end + 4 : whole]), whole


class Ring:
    """Connections that wait for answers, each with whatever its driver wants to know of it."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._known: set[int] = set()
        self._waiting: dict[int, tuple[Connection, object]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def send(self, connection: Connection, request: bytes, about: object) -> None:
        """Send and wait for the answer."""
        descriptor = connection.socket.fileno()
        self._waiting[descriptor] = (connection, about)
        if descriptor in self._known:
            self._epoll.modify(descriptor, ONE_ANSWER)
        else:
            self._known.add(descriptor)
            self._epoll.register(descriptor, ONE_ANSWER)
        connection.send(request)

    def leave(self, connection: Connection) -> None:
        """Close a connection, answered or not."""
        descriptor = connection.socket.fileno()
        self._waiting.pop(descriptor, None)
        if descriptor in self._known:
            self._known.discard(descriptor)
            self._epoll.unregister(descriptor)
        connection.socket.close()

    def answers(self, timeout_s: float) -> list[tuple[Connection, object, Answer | OSError]]:
        """What came within the time; an error in place of the answer when the connection broke."""
        came: list[tuple[Connection, object, Answer | OSError]] = []
        for descriptor, _ in self._epoll.poll(max(0.0, timeout_s)):
            connection, about = self._waiting[descriptor]
            try:
                answer: Answer | OSError | None = connection.receive()
            except OSError as error:
                answer = error
            if answer is None:
                self._epoll.modify(descriptor, ONE_ANSWER)
            else:
                del self._waiting[descriptor]
                came.append((connection, about, answer))
        return came


@dataclass(slots=True)
class Tally:
    """Answers by status, and the latencies of those with 200."""

    statuses: dict[str, int] = field(default_factory=dict)
    without_retry_after: int = 0  # of the 429
    latencies_s: list[float] = field(default_factory=list)

    def add(self, answer: Answer | OSError, latency_s: float) -> None:
        """Count one; a broken connection is the status "broken"."""
        status = "broken" if isinstance(answer, OSError) else str(answer.status)
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if isinstance(answer, Answer) and answer.status == 200:
            self.latencies_s.append(latency_s)
        elif isinstance(answer, Answer) and answer.status == 429:
            self.without_retry_after += not answer.retry_after

    def percentile_ms(self, share: float) -> float | None:
        """Of the 200s."""
        ranked = sorted(self.latencies_s)
        return ranked[min(len(ranked) - 1, int(len(ranked) * share))] * 1000 if ranked else None


class Cost:
    """How much of one core this process has used since."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), _cpu_s()

    def share(self) -> float:
        return (_cpu_s() - self._cpu) / (time.perf_counter() - self._wall)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def show(result: object) -> None:
    """The driver's result, for the process that started it."""
    print(json.dumps(result), flush=True)
