"""An S3 on loopback for tests: moto's server, and relays before it that misbehave in one way each."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
from moto.server import ThreadedMotoServer


@contextmanager
def moto_server() -> Iterator[str]:
    """Yields the endpoint's URL."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def environ_of(endpoint: str) -> dict[str, str]:
    """Where boto3 is to look."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def fresh_buckets(endpoint: str, *names: str) -> Any:
    """Forget all that moto holds, make empty buckets, and return a client."""
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST")).close()
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    for name in names:
        client.create_bucket(Bucket=name)
    return client


class Relay(BaseHTTPRequestHandler):
    """Passes requests on to `upstream`. Subclasses misbehave."""

    upstream: str
    protocol_version = "HTTP/1.1"

    def drops(self, header: str) -> bool:
        """Whether a request header is lost on the way."""
        return False

    def ask(self) -> tuple[int, dict[str, str], bytes]:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {k: v for k, v in self.headers.items() if k.lower() != "expect" and not self.drops(k.lower())}
        headers.setdefault("Content-Type", "binary/octet-stream")  # urllib's own would make moto read a form
        request = urllib.request.Request(self.upstream + self.path, body or None, headers, method=self.command)
        try:
            answer = urllib.request.urlopen(request, timeout=30)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in {"transfer-encoding", "connection"}}
            return answer.status, kept, answer.read()

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() != "content-length":
                self.send_header(name, value)
        self.send_header("Content-Length", headers.get("Content-Length", str(len(body))))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.answer(*self.ask())

    do_PUT = do_HEAD = do_POST = do_DELETE = do_GET

    def log_message(self, format: str, *arguments: Any) -> None:
        """Quiet."""


class Forgetful(Relay):
    """A store that does not know `If-None-Match`."""

    def drops(self, header: str) -> bool:
        return header == "if-none-match"


@contextmanager
def relay(kind: type[Relay], upstream: str) -> Iterator[str]:
    """Puts a relay of the given kind before `upstream`; yields its URL."""
    handler = type(kind.__name__, (kind,), {"upstream": upstream})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
