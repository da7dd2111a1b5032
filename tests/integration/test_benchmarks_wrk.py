"""The closed loop against a server whose every answer is known."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread

import pytest

from benchmarks.wrk import DriverFailed, closed_loop

pytestmark = pytest.mark.integration
SLOW_S = 0.5


class Quiet(ThreadingHTTPServer):
    """wrk leaves in the middle of requests when its time is over."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing."""


class Known(BaseHTTPRequestHandler):
    """Of ten requests three are slow and one is refused."""

    protocol_version = "HTTP/1.1"
    numbers = itertools.count()
    lock = Lock()
    bodies: list[bytes]

    def do_POST(self) -> None:
        with self.lock:
            number = next(self.numbers) % 10
            self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(SLOW_S if number in (2, 5, 8) else 0.005)
        self.send_response(503 if number == 9 else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    Known.bodies = []
    server = Quiet(("127.0.0.1", 0), Known)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/score"
    server.shutdown()
    server.server_close()


def test_what_was_measured_and_nothing_else(url: str, tmp_path: Path) -> None:
    bodies = tmp_path / "bodies.jsonl"
    bodies.write_text("".join(f'{{"n": {number}}}\n' for number in range(1000)))
    loop = closed_loop(url, bodies, clients=4, seconds=3, first=10)
    # Distinct bodies, from the one asked for on; wrk makes one request in vain before it begins.
    assert len(set(Known.bodies)) == len(Known.bodies) >= loop.requests
    # Four clients begin together, so which of their first requests comes in first is chance.
    assert min(json.loads(body)["n"] for body in Known.bodies) == 11
    # One of ten is a failure and no throughput.
    assert loop.failures == pytest.approx(loop.requests / 10, abs=2)
    assert 0 < loop.answers_per_s < loop.requests / 3
    # Seven of ten are fast. With the samples that wrk adds by itself, the median would be near the slow ones' mean.
    assert loop.p50_ms < SLOW_S * 1000 * 0.3
    assert loop.p99_ms > SLOW_S * 1000 * 0.9


def test_nobody_there(tmp_path: Path) -> None:
    bodies = tmp_path / "bodies.jsonl"
    bodies.write_text("{}\n")
    with pytest.raises(DriverFailed, match="refused"):
        closed_loop("http://127.0.0.1:9/score", bodies, clients=1, seconds=1, first=0)
