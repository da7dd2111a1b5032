"""A real server and clients that mean no good, or are gone: it answers those who wait, and nothing sticks."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import psutil
import pytest

from runtime.backends.fake import POISON
from tests.e2e.serving_process import Server, metric, publish, serve

pytestmark = pytest.mark.e2e
WITHIN_S = 30
CLIENTS, ROUNDS = 16, 4
BODY_TIMEOUT_S = 1


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the module: models of all kinds, a slow one, small batches, a queue for all of CLIENTS twice."""
    home = tmp_path_factory.mktemp("home")
    publish(home, "matching", "matching")
    publish(home, "slow", "matching", latency_s=0.1)
    publish(home, "narrow", "matching", latency_s=0.01)
    publish(home, "embedding", "embedding")
    publish(home, "generation", "generation")
    settings = {
        "SLUICE_QUEUE_ITEMS": str(4 * CLIENTS),
        "SLUICE_BATCH_ITEMS": "4",
        "SLUICE_THREADS": "1",
        "SLUICE_ACCESS_LOG": "false",
        "SLUICE_BODY_TIMEOUT_S": str(BODY_TIMEOUT_S),
    }
    with serve(home, **settings) as running:
        yield running


def metrics(server: Server) -> str:
    return httpx.get(f"{server.url}/metrics", timeout=WITHIN_S).text


def eventually(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {WITHIN_S} s: {what}"
        time.sleep(0.05)


def idle(server: Server) -> bool:
    text = metrics(server)
    names = [f'sluice_{name}{{model="slow"}}' for name in ("queued_items", "queued_tokens", "running_items")]
    return all(metric(text, name) == 0 for name in (*names, "sluice_requests_in_flight"))


def works(server: Server) -> None:
    """An ordinary request is answered at once."""
    pair = {"text_a": "a b", "text_b": "B a"}
    reply = httpx.post(f"{server.url}/v1/match", json={"model": "matching", "pairs": [pair]}, timeout=WITHIN_S)
    assert reply.json()["results"][0]["match"] is True


# ---------------------------------------------------------------- clients that leave


def test_those_who_leave_cost_those_who_stay_next_to_nothing(server: Server) -> None:
    def body(number: int) -> bytes:  # distinct pairs: an equal one would be computed with another's
        return json.dumps({"model": "slow", "pairs": [{"text_a": f"text {number:04}", "text_b": "b"}]}).encode()

    def stay(client: int) -> list[httpx.Response]:
        numbers = range(client * ROUNDS, (client + 1) * ROUNDS)
        return [http.post("/v1/match", content=body(number)) for number in numbers]

    def leave(turn: int) -> None:
        with ExitStack() as connections:
            for client in range(CLIENTS):
                content = body(5000 + turn * CLIENTS + client)
                head = f"POST /v1/match HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode()
                connection = connections.enter_context(socket.create_connection(("127.0.0.1", server.port)))
                connection.sendall(head + content)
            time.sleep(0.02)

    with httpx.Client(base_url=server.url, timeout=WITHIN_S) as http, ThreadPoolExecutor(CLIENTS) as pool:
        staying = [pool.submit(stay, client) for client in range(CLIENTS)]
        eventually(lambda: metric(metrics(server), 'sluice_queued_items{model="slow"}') >= 8, "those who stay wait")
        for turn in range(ROUNDS):
            leave(turn)
        replies = [reply for each in staying for reply in each.result()]
    assert [reply.status_code for reply in replies] == [200] * CLIENTS * ROUNDS
    answered = sum(reply.json()["usage"]["prompt_tokens"] for reply in replies)
    a_pair = answered / len(replies)

    eventually(lambda: idle(server), "the queue is empty")
    text = metrics(server)
    queued, running = (
        metric(text, f'sluice_cancelled_total{{model="slow",stage="{stage}"}}') for stage in ("queued", "running")
    )
    unread = metric(text, 'sluice_requests_total{model="slow",route="/v1/match",status="200"}') - len(replies)
    assert queued + running + unread == CLIENTS * ROUNDS
    # What was computed and not read had been running when its client left, and that is little.
    computed = metric(text, 'sluice_input_tokens_total{model="slow"}')
    assert computed - answered <= (running + unread) * a_pair
    assert computed - answered < 0.2 * CLIENTS * ROUNDS * a_pair


# ---------------------------------------------------------------- more than fits


def test_a_full_queue_refuses_at_once_and_keeps_nothing(server: Server) -> None:
    """Four times the clients that fit, in three waves: the memory that the first one takes does for the others."""
    (worker,) = server.workers()
    space = b" " * 200_000

    def wave(number: int) -> list[httpx.Response]:
        def ask(client: int) -> httpx.Response:
            texts = [{"text_a": f"{number} {client} {place}", "text_b": "b"} for place in range(16)]
            content = json.dumps({"model": "narrow", "pairs": texts}).encode() + space
            return http.post("/v1/match", content=content)

        with httpx.Client(base_url=server.url, timeout=WITHIN_S) as http, ThreadPoolExecutor(CLIENTS) as pool:
            return list(pool.map(ask, range(4 * CLIENTS)))

    replies = wave(0)
    before_mb = psutil.Process(worker.pid).memory_full_info().uss / 2**20
    for number in (1, 2):
        replies += wave(number)
        works(server)
    grown_mb = psutil.Process(worker.pid).memory_full_info().uss / 2**20 - before_mb
    assert {reply.status_code for reply in replies} == {200, 429}
    for reply in replies:
        if reply.status_code == 429:
            assert int(reply.headers["retry-after"]) >= 1
    # Kept, the bodies of the later waves alone would be 25 MB.
    assert grown_mb < 12, f"{grown_mb:.0f} MB more"


# ---------------------------------------------------------------- rubbish

DEEP = 100_000
RUBBISH = {
    "random bytes": bytes((number * 7919 + number // 251) % 256 for number in range(5_000)),
    "brackets": b"[" * (4 << 20),
    "braces": b'{"a":' * DEEP,
    "closed brackets": b"[" * DEEP + b"]" * DEEP,
    "deep in a field": b'{"pairs": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep in a text": b'{"pairs": [{"text_a": ' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b', "text_b": ""}]}',
    "truncated": b'{"pairs": [{"text_a": "a", "text_b": "b',
    "lone surrogate": b'{"query": "\\ud800", "documents": ["\\udfff"], "input": "\\ud800"}',
    "invalid UTF-8": b'{"query": "\xc3\x28", "documents": ["\xff"], "input": "\xed\xa0\x80"}',
    "NUL outside": b"\x00{}",
    "UTF-16": '{"input": "a"}'.encode("utf-16"),
    "a long number": b'{"input": ' + b"9" * 1_000_000 + b"}",
    "a long exponent": b'{"threshold": 1e' + b"9" * 100_000 + b"}",
    "many keys": b'{"input": "a"' + b"".join(b', "k%d": 1' % number for number in range(50_000)) + b"}",
    "a gzip": b"\x1f\x8b\x08" + b"\x00" * 1_000,
}


def posts(server: Server) -> list[str]:
    document = httpx.get(f"{server.url}/openapi.json", timeout=WITHIN_S).json()
    return [path for path, methods in document["paths"].items() if "post" in methods] + ["/bentoml/match"]


@pytest.mark.parametrize("kind", RUBBISH)
def test_rubbish_is_the_clients_fault(server: Server, kind: str) -> None:
    with httpx.Client(base_url=server.url, timeout=WITHIN_S) as http:
        for path in posts(server):
            for headers in ({"content-type": "application/json"}, {"content-type": "text/plain"}, {}):
                reply = http.post(path, content=RUBBISH[kind], headers=headers)
                assert 400 <= reply.status_code < 500, (path, headers, reply.status_code, reply.text[:200])
    works(server)


def test_strange_texts_are_texts(server: Server) -> None:
    texts = [
        "\x00",
        "a\x00b",
        "\u202e\ufeff",
        "\U0010ffff",
        "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
        " ",
    ]
    with httpx.Client(base_url=server.url, timeout=WITHIN_S) as http:
        pairs = [{"text_a": text, "text_b": text} for text in texts]
        results = http.post("/v1/match", json={"model": "matching", "pairs": pairs}).json()["results"]
        assert [0 <= result["score"] <= 1 for result in results] == [True] * len(texts)
        for path in ("/v1/rerank", "/v2/rerank"):
            body = {"model": "matching", "query": "\x00", "documents": texts, "return_documents": True}
            results = http.post(path, json=body).json()["results"]
            assert sorted(result["document"]["text"] for result in results) == sorted(texts)
        reply = http.post("/v1/embeddings", json={"model": "embedding", "input": texts})
        assert len(reply.json()["data"]) == len(texts)


def raw(server: Server, *parts: bytes) -> bytes:
    """Send these bytes as they are and read until the server closes, which it must."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=WITHIN_S) as connection:
        for part in parts:
            connection.sendall(part)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while part := connection.recv(1 << 16):
            received += part
    return received


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\xff" * 1_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,  # the beginning of TLS
        b"POST /v1/match HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n{}",
        b"POST /v1/match HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 30\r\n\r\n{}",
        b"POST /v1/match HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
        b"POST /v1/match HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{",  # and gone
        b"POST /v1/match HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Big: " + b"a" * (1 << 20) + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nConnection: close\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
    ],
    ids=lambda sent: sent[:24].decode("latin-1"),
)
def test_what_is_hardly_http_is_answered_or_cut(server: Server, sent: bytes) -> None:
    status = raw(server, sent)[:12]
    assert not status.startswith(b"HTTP/1.1 5"), status
    works(server)


def test_a_body_that_does_not_come_is_waited_for_only_so_long(server: Server) -> None:
    """Many clients that send a byte now and then, on several routes: they are told and cut, the others see nothing."""
    cut: list[bytes] = []

    def drip(path: str) -> None:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port), timeout=WITHIN_S) as connection:
            connection.sendall(head.encode())
            connection.settimeout(BODY_TIMEOUT_S / 10)
            received = b""
            for _ in range(10 * WITHIN_S):
                try:
                    connection.sendall(b" ")
                    if not (part := connection.recv(1 << 16)):
                        break
                    received += part
                except TimeoutError:
                    continue
                except ConnectionError:
                    break
        cut.append(received)

    threads = [threading.Thread(target=drip, args=(path,)) for path in posts(server) * 4]
    for thread in threads:
        thread.start()
    works(server)
    for thread in threads:
        thread.join(2 * WITHIN_S)
    assert len(cut) == len(threads)
    assert {answer.partition(b"\r\n")[0] for answer in cut} == {b"HTTP/1.1 408 Request Timeout"}
    eventually(lambda: idle(server), "nothing is in flight")


# ---------------------------------------------------------------- one text that breaks the model


def test_poison_harms_no_neighbour(server: Server) -> None:
    def ask(client: int) -> list[str]:
        texts = [f"a {client}", f"{POISON} {client}" if client % 4 == 0 else f"b {client}", f"c {client}"]
        pairs = [{"text_a": text, "text_b": text} for text in texts]
        reply = http.post("/v1/match", json={"model": "slow", "pairs": pairs})
        assert reply.status_code == 200
        return [result["error"]["code"] if "error" in result else result["label"] for result in reply.json()["results"]]

    with httpx.Client(base_url=server.url, timeout=WITHIN_S) as http, ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(ask, range(CLIENTS)))
    for client, answer in enumerate(answers):
        assert answer == ["same", "backend_failed" if client % 4 == 0 else "same", "same"]
    works(server)
