"""A real `bentoml serve` for tests: fake artifacts in a store of its own, a free port, ended by its pid."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from runtime.backends.fake import write_fake_artifact
from runtime.manifest import Kind
from runtime.store import ModelStore

ROOT = Path(__file__).parents[2]
BENTOML = Path(sys.executable).with_name("bentoml")
START_TIMEOUT_S = 90
STOP_TIMEOUT_S = 60


def publish(home: Path, name: str, kind: Kind, version: str = "v1", **knobs: float) -> str:
    """Put a fake artifact into the store below `home`, in production; returns its tag."""
    write_fake_artifact(home / "models" / name / version, kind, **knobs)
    return ModelStore(home).promote(f"{name}:{version}").tag


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: `process` is BentoML's parent process, its children are the workers."""

    url: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def workers(self) -> list[psutil.Process]:
        """The processes that answer."""
        return [child for child in psutil.Process(self.process.pid).children() if child.name().startswith("python")]

    def output(self) -> str:
        """All that it has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")


def environment(home: Path, **more: str) -> dict[str, str]:
    """This process's, without settings of ours that somebody may have exported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLUICE_", "BENTOML_"))}
    return {**kept, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True", **more}


@contextmanager
def serve(home: Path, *target: str, cwd: Path = ROOT, api_key: str = "", **settings: str) -> Iterator[Server]:
    """Run `bentoml serve TARGET` until the block ends."""
    port = free_port()
    log = home / f"serve-{port}.log"
    home.mkdir(parents=True, exist_ok=True)
    keys = {"SLUICE_API_KEYS": api_key} if api_key else {}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [BENTOML, "serve", *target, "--host", "127.0.0.1", "--port", str(port)],
            cwd=cwd,
            env=environment(home, **keys, **settings),
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    server = Server(f"http://127.0.0.1:{port}", port, process, log)
    try:
        wait_until_ready(server)
        yield server
    finally:
        stop(process)


def wait_until_ready(server: Server) -> None:
    """Raises RuntimeError, with what the server said, when it does not come up."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            if httpx.get(f"{server.url}/readyz", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise RuntimeError(f"the server is not ready (exit code {server.process.poll()}):\n{server.output()}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM; SIGKILL to it and its workers if that does not help."""
    if process.poll() is not None:
        return
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        for member in family:
            if member.is_running():
                member.kill()
        process.wait()


def metric(text: str, name: str) -> float:
    """The value of one sample, labels included in `name`; 0 where there is none."""
    found = [line.rsplit(" ", 1)[1] for line in text.splitlines() if line.rsplit(" ", 1)[0] == name]
    return float(found[0]) if found else 0.0
