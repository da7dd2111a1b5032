"""SIGTERM to a server with two workers: readiness says no, what runs finishes, the process ends cleanly."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.e2e.serving_process import metric, publish, serve

pytestmark = pytest.mark.e2e
TOKENS = 120
STEP_S = 0.02


def test_drain(tmp_path: Path) -> None:
    publish(tmp_path, "generation", "generation", latency_s=STEP_S)
    workers = {"BENTOML_CONFIG_OPTIONS": "services.Generation.workers=2", "SLUICE_DRAIN_NOTICE_S": "1"}
    with serve(tmp_path, "service:Generation", **workers) as server:
        body = {"prompt": "x", "max_tokens": TOKENS, "stream": True}
        lines: list[str] = []
        begun = threading.Event()

        def read() -> None:
            with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=30) as reply:
                for line in reply.iter_lines():
                    lines.append(line)
                    begun.set()

        reader = threading.Thread(target=read)
        reader.start()
        assert begun.wait(10)
        assert len(server.workers()) == 2
        # Both workers' gauges are in any worker's answer, within a second.
        deadline = time.monotonic() + 5
        name = 'sluice_running_items{model="generation"}'
        while metric(httpx.get(f"{server.url}/metrics").text, name) != 1:
            assert time.monotonic() < deadline

        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        for method, path, value in (("GET", "/readyz", None), ("POST", "/v1/completions", {"prompt": "y"})):
            reply = httpx.request(method, f"{server.url}{path}", json=value, timeout=5)
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "not_ready")
            assert reply.headers["retry-after"] == "1"
        assert httpx.get(f"{server.url}/livez", timeout=5).status_code == 200

        reader.join(20)
        assert not reader.is_alive()
        events = [line.removeprefix("data: ") for line in lines if line]
        assert events[-1] == "[DONE]"
        assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length"
        assert len(events) == TOKENS + 2
        assert server.process.wait(20) == 0
        assert "Traceback" not in server.output()
