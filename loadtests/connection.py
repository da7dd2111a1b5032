"""One user's HTTP connection: kept alive, one request at a time, every line of a stream timed as it arrives.

Streams are read with the response's `readline`, which returns a line as soon as its bytes are there. Locust's own
`iter_content` waits until a whole block of bytes has come: a first-token time taken with it is a later token's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import gevent
from geventhttpclient.client import HTTPClient
from geventhttpclient.response import HTTPConnectionClosed, HTTPParseError, HTTPSocketPoolResponse

CONNECT_TIMEOUT_S = 5.0


class TransportFailure(Exception):
    """No whole answer came; `code` says how."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer whose head has come and whose body is still to be read: line by line, or at once."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    _response: HTTPSocketPoolResponse

    def lines(self) -> Iterator[tuple[bytes, float]]:
        """Yield every line without its line end, with the time.perf_counter() at which it was there."""
        while line := self._response.readline(b"\n"):
            yield line.rstrip(b"\r\n"), time.perf_counter()
        if rest := self._response.read():  # a last line without an end
            yield rest, time.perf_counter()

    def read(self) -> bytes:
        """Read the whole body."""
        return bytes(self._response.read())


class Connection:
    """Requests to one host, with these headers on each."""

    def __init__(self, host: str, timeout_s: float, headers: Mapping[str, str]) -> None:
        self._host = urlsplit(host)
        self._timeout_s = timeout_s
        self._headers = {"Accept-Encoding": "identity", **headers}
        self._client = self._open()

    @contextmanager
    def exchange(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Iterator[Answer]:
        """Send a request; the time limit covers everything until the `with` ends. Raises TransportFailure."""
        response: HTTPSocketPoolResponse | None = None
        limit = gevent.Timeout.start_new(self._timeout_s)
        try:
            response = self._client.request(
                method, self._host.path + path, body=body, headers={**self._headers, **(headers or {})}
            )
            yield Answer(response.status_code, {name.lower(): str(value) for name, value in response.items()}, response)
        except (gevent.Timeout, OSError, HTTPParseError) as error:
            if isinstance(error, gevent.Timeout) and error is not limit:
                raise
            # A client that was interrupted while sending never gives its only socket back.
            self._client.close()
            self._client = self._open()
            raise self._failure(error) from error
        finally:
            limit.close()
            if response is not None:
                response.release()

    def close(self) -> None:
        """Close the connection, if it is open."""
        self._client.close()

    def _open(self) -> HTTPClient:
        return HTTPClient(
            self._host.hostname or "",
            port=self._host.port,
            ssl=self._host.scheme == "https",
            concurrency=1,
            connection_timeout=min(CONNECT_TIMEOUT_S, self._timeout_s),
            network_timeout=self._timeout_s,
        )

    def _failure(self, error: BaseException) -> TransportFailure:
        if isinstance(error, gevent.Timeout | TimeoutError):
            return TransportFailure("transport.timeout", f"no whole answer within {self._timeout_s:g} s")
        if isinstance(error, ConnectionRefusedError):
            return TransportFailure("transport.refused", f"nobody listens at {self._host.netloc}")
        if isinstance(error, HTTPConnectionClosed):
            return TransportFailure("transport.closed", "the server closed the connection before it answered")
        if isinstance(error, HTTPParseError):
            return TransportFailure("transport.cut", f"the answer broke off or is no HTTP: {error}")
        return TransportFailure("transport.failed", f"{type(error).__name__}: {error}")
