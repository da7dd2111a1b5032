"""A real Chromium, spoken to over its own debugging protocol: open a page, run script in it, take its picture."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import websocket

OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-sync",
    "--no-first-run",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
    "--window-size=1200,1150",
]


class Page:
    """One tab. `requests` are the URLs that it has asked for, `problems` what its console complained about."""

    def __init__(self, connection: websocket.WebSocket) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self.requests: list[str] = []
        self.problems: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol."""
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv())
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def open(self, url: str) -> None:
        """Go there; `wait_for` what should show."""
        self.call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait_for(self, script: str, within_s: float = 15) -> Any:
        """The first true value of an expression. Raises TimeoutError."""
        deadline = time.monotonic() + within_s
        while not (value := self.run(script)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {within_s} s: {script}; console: {self.problems}")
            time.sleep(0.05)
        return value

    def picture(self, path: Path) -> None:
        """Write a PNG of the whole page."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def _note(self, message: dict[str, Any]) -> None:
        details = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(details["request"]["url"])
        elif message.get("method") == "Log.entryAdded" and details["entry"]["level"] == "error":
            self.problems.append(f"{details['entry']['text']} {details['entry'].get('url', '')}")
        elif message.get("method") == "Runtime.exceptionThrown":
            self.problems.append(str(details["exceptionDetails"]))


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A browser with a fresh profile in `profile`, closed at the end."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program, "these tests need Chromium; on Debian: apt-get install chromium"
    process = subprocess.Popen(
        [program, *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        port = _debugging_port(profile)
        targets = httpx.get(f"http://127.0.0.1:{port}/json/list").json()
        address = next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")
        connection = websocket.create_connection(address, timeout=30)
        try:
            yield Page(connection)
        finally:
            connection.close()
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def _debugging_port(profile: Path, within_s: float = 30) -> int:
    deadline = time.monotonic() + within_s
    told = profile / "DevToolsActivePort"
    while not (told.is_file() and told.read_text().count("\n")):
        assert time.monotonic() < deadline, "Chromium did not start"
        time.sleep(0.05)
    return int(told.read_text().split("\n")[0])
