"""Running other rooms' commands: their lines shown as they come, their failures named, their processes ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

STOP_TIMEOUT_S = 20.0


class StepFailed(Exception):
    """A command did not do what the demo needs; the message says which and where its log lies."""


def run(room: str, *arguments: str, log: Path, environ: Mapping[str, str] | None = None) -> str:
    """`python -m ROOM ARGUMENTS…`: shows each line indented, keeps all in `log`, returns what it printed on stdout.

    Raises StepFailed on an exit code other than 0.
    """
    command = [sys.executable, "-m", room, *arguments]
    print(f"  $ python {' '.join(command[1:])}", flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    # Text on stderr (progress, logs) is shown with the rest, in order; scripts' JSON stands on stdout alone.
    with (
        log.open("a", encoding="utf-8") as file,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **(environ or {}), "PYTHONUNBUFFERED": "1"},
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            lines.append(line)
            print(f"    {line.rstrip()}", flush=True)
    if process.returncode:
        raise StepFailed(f"`python -m {room} {arguments[0]}` ended with {process.returncode}; its output is in {log}.")
    return "".join(lines)


def free_port() -> int:
    """A port on loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(
    command: Sequence[str], ready: str, log: Path, environ: Mapping[str, str] | None = None, timeout_s: float = 90
) -> Iterator[int]:
    """Run a server until the block ends; `ready` is the URL that answers 200 when it is up. Yields its pid.

    Raises StepFailed when it ends early or is not ready in time. It is stopped with SIGTERM, then SIGKILL.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environ or {})},
            start_new_session=True,  # its workers end with it, and Ctrl-C reaches it through us alone
        )
    try:
        deadline = time.monotonic() + timeout_s
        while not _answers(ready):
            if process.poll() is not None:
                raise StepFailed(f"{command[0]} ended with {process.returncode}; see {log}.\n{_tail(log)}")
            if time.monotonic() > deadline:
                raise StepFailed(f"{ready} did not answer within {timeout_s:.0f} s; see {log}.\n{_tail(log)}")
            time.sleep(0.2)
        yield process.pid
    finally:
        _stop(process)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            try:
                os.killpg(process.pid, number)
                process.wait(STOP_TIMEOUT_S)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
