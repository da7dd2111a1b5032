"""What a job tells while it runs: a bar on a terminal, plain lines in a log, both on stderr."""

from __future__ import annotations

import shutil
import time
from typing import TextIO

BAR = 24
BAR_EVERY_S = 0.1
LINE_EVERY_S = 5.0


class Progress:
    """Rows done out of all. One bar or one line at a time."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._every_s = BAR_EVERY_S if self._terminal else LINE_EVERY_S
        self._total = self._kept = self._done = 0
        self._begun = self._shown = 0.0
        self._open = False

    def say(self, line: str) -> None:
        """One line of its own."""
        self._clear()
        print(line, file=self._stream, flush=True)

    def note(self, text: str) -> None:
        """What goes on now, of no matter once it is over."""
        now = time.monotonic()
        if now - self._shown < self._every_s:
            return
        self._shown = now
        if self._terminal:
            self._overwrite(text)
        else:
            self.say(text)

    def begin(self, total: int, done: int) -> None:
        """Rows in all, and those that an earlier run has done."""
        self._total, self._kept, self._done = total, done, 0
        self._begun = self._shown = time.monotonic()

    def move(self, rows: int) -> None:
        """So many more rows are done."""
        self._done += rows
        now = time.monotonic()
        if now - self._shown >= self._every_s:
            self._shown = now
            self._show(now)

    def end(self) -> None:
        """Take the bar away and say how it went."""
        self._clear()
        took_s = max(time.monotonic() - self._begun, 1e-9)
        kept = f"; {self._kept:,} were done before" if self._kept else ""
        self.say(f"{self._done:,} rows in {took_s:.1f} s, {self._done / took_s:,.0f} rows/s{kept}")

    def _show(self, now: float) -> None:
        rate = self._done / max(now - self._begun, 1e-9)
        done = self._kept + self._done
        left_s = (self._total - done) / rate if rate else 0.0
        share = done / self._total if self._total else 1.0
        text = f"{done:,}/{self._total:,} rows, {rate:,.0f} rows/s, about {left_s:,.0f} s left"
        if not self._terminal:
            self.say(f"{share:4.0%} {text}")
            return
        filled = int(share * BAR)
        self._overwrite(f"[{'#' * filled}{'.' * (BAR - filled)}] {share:4.0%} {text}")

    def _overwrite(self, text: str) -> None:
        width = shutil.get_terminal_size().columns - 1  # a line that wraps cannot be taken back
        self._stream.write(f"\r\x1b[K{text[:width]}")
        self._stream.flush()
        self._open = True

    def _clear(self) -> None:
        if self._open:
            self._stream.write("\r\x1b[K")
            self._open = False
