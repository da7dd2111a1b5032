"""An engine without a server: it is told over HTTP what to generate and says how long that took by its own clock, so
what HTTP costs is not counted. Prompts of one request are one batch.

Runs in the environments of the peers, with the standard library alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer

# (prompts, how many tokens for each) -> the tokens of each
Generate = Callable[[list[list[int]], int], list[list[int]]]


def serve(port: int, generate: Generate) -> None:
    """Answer one request at a time, for ever."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer({})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            begun = time.perf_counter()
            tokens = generate(asked["prompts"], asked["tokens"])
            seconds = time.perf_counter() - begun
            self.answer({"tokens": tokens, "seconds": seconds})

        def answer(self, value: object) -> None:
            content = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            """Nothing is logged a request, here as everywhere."""

    HTTPServer(("127.0.0.1", port), Handler).serve_forever()
