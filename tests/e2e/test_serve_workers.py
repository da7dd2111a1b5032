"""Two workers behind one port: what /metrics says is about both, whichever of them answers."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import psutil
import pytest

from tests.e2e.serving_process import Server, publish, serve

pytestmark = pytest.mark.e2e
PAIR = {"pairs": [{"text_a": "a b", "text_b": "B a"}]}
MATCHED = 'sluice_requests_total{model="matching",route="/v1/match",status="200"}'
STORY = {"prompt": "x", "max_tokens": 200}
STEP_S = 0.05
LEVELS = (
    "sluice_requests_in_flight",
    'sluice_queued_items{model="generation"}',
    'sluice_running_items{model="generation"}',
    "sluice_saturation",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    publish(home, "matching", "matching")
    publish(home, "generation", "generation", latency_s=STEP_S)
    with serve(home, SLUICE_WORKERS="2", SLUICE_GENERATION_SLOTS="1") as running:
        eventually(lambda: len(running.workers()) == 2)
        yield running


def eventually(holds: Callable[[], bool], within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.05)


@contextmanager
def answered_by(server: Server, worker: psutil.Process) -> Iterator[None]:
    """Inside, new connections reach `worker`: the others stand still."""
    others = [other for other in server.workers() if other.pid != worker.pid]
    for other in others:
        other.suspend()
    try:
        yield
    finally:
        for other in others:
            other.resume()


def connection(server: Server, worker: psutil.Process) -> httpx.Client:
    """A client whose connection, once open, stays with `worker`."""
    client = httpx.Client(base_url=server.url, timeout=60)
    with answered_by(server, worker):
        assert client.get("/livez").status_code == 200
    return client


def samples(text: str) -> dict[str, float]:
    return {
        name: float(value) for name, value in (line.rsplit(" ", 1) for line in text.splitlines() if line[:1] not in "#")
    }


def test_workers_add_up_and_the_dead_leave_no_ghosts(server: Server) -> None:
    first, second = sorted(server.workers(), key=lambda worker: worker.pid)
    clients = {worker.pid: connection(server, worker) for worker in (first, second)}
    for worker, count in ((first, 5), (second, 7)):
        for _ in range(count):
            assert clients[worker.pid].post("/v1/match", json=PAIR).status_code == 200
    for client in clients.values():  # each worker tells of both
        found = samples(client.get("/metrics").text)
        assert found[MATCHED] == 12
        assert found['sluice_input_tokens_total{model="matching"}'] == 12 * 7
        assert found['sluice_batch_items_sum{model="matching"}'] == 12
        assert found['sluice_queue_wait_seconds_count{model="matching"}'] == 12
        assert found['sluice_request_seconds_count{route="/v1/match"}'] == 12

    # Levels: three stories in one worker, one in the other. Saturation is that of the fuller worker, not the sum.
    def tell(client: httpx.Client) -> int:
        try:
            return client.post("/v1/completions", json=STORY).status_code
        except httpx.RemoteProtocolError:
            return 0  # the worker was killed

    def levels() -> tuple[float, ...]:
        found = samples(probe.get("/metrics").text)
        return tuple(found[name] for name in LEVELS)

    crowd = [connection(server, first) for _ in range(3)]
    probe = connection(server, second)
    with ThreadPoolExecutor(4) as pool:
        stories = [pool.submit(tell, client) for client in (*crowd, clients[second.pid])]
        eventually(lambda: levels() == (4, 2, 2, 3), 200 * STEP_S)
        first.send_signal(signal.SIGKILL)
        first.wait(10)
        assert levels() == (1, 0, 1, 1)
        assert samples(probe.get("/metrics").text)[MATCHED] == 12  # counters never go back
        assert [story.result() for story in stories] == [0, 0, 0, 200]

    eventually(lambda: len(server.workers()) == 2)
    (third,) = [worker for worker in server.workers() if worker.pid not in (first.pid, second.pid)]
    with answered_by(server, third):
        assert httpx.post(f"{server.url}/v1/match", json=PAIR, timeout=60).status_code == 200
        found = samples(httpx.get(f"{server.url}/metrics", timeout=60).text)
    assert found[MATCHED] == 13
    eventually(lambda: levels() == (0, 0, 0, 0))
    for client in (*clients.values(), *crowd, probe):
        client.close()


def test_a_scan_makes_no_series(server: Server) -> None:
    def scan(number: int) -> None:
        http.get(f"/wp-admin/{number}.php")
        http.get(f"/v1/models/guess-{number}")
        http.post("/v1/match", json={"model": f"guess-{number}", **PAIR})
        http.post(f"/bentoml/guess-{number}", json={})
        http.request(f"METHOD{number}", "/v1/match")

    with httpx.Client(base_url=server.url, timeout=60) as http:
        scan(0)
        before = set(samples(http.get("/metrics").text))
        for number in range(1, 30):
            scan(number)
        after = samples(http.get("/metrics").text)
    assert "guess-" not in "".join(after)
    assert set(after) == before
    assert after['sluice_requests_total{model="",route="unmatched",status="404"}'] >= 60
