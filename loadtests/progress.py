"""What a run shows while it runs: a bar on a terminal, plain lines every few seconds in a log. Written to stderr."""

from __future__ import annotations

import shutil
from typing import TextIO

from loadtests.figures import percentile
from loadtests.observations import Observation, Outcome
from loadtests.settings import Kind

LINE_EVERY_S = 5.0
BAR_EVERY_S = 0.5
BAR_WIDTH = 24


class Progress:
    """Writes the state of a run to a stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._every_s = BAR_EVERY_S if self._terminal else LINE_EVERY_S
        self._next_s = self._every_s
        self._shown = 0
        self._shown_at_s = 0.0
        self._width = 0

    def say(self, text: str) -> None:
        """Write a line of its own."""
        self._clear()
        print(text, file=self._stream, flush=True)

    def show(self, elapsed_s: float, total_s: float, observations: list[Observation]) -> None:
        """Show what happened since the last time, if it is time again."""
        if elapsed_s < self._next_s:
            return
        recent = observations[self._shown :]
        text = f"{elapsed_s:5.0f}/{total_s:.0f} s  {describe(recent, elapsed_s - self._shown_at_s)}"
        if self._terminal:
            filled = round(BAR_WIDTH * min(1.0, elapsed_s / total_s))
            self._clear()
            bar = f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {text}"
            text = bar[: shutil.get_terminal_size().columns - 1]  # a wrapped line could not be taken back
            self._width = len(text)
            self._stream.write(text)
            self._stream.flush()
        else:
            print(text, file=self._stream, flush=True)
        # A bar is redrawn often; its rates still look back over a few seconds, or they would flicker.
        if elapsed_s - self._shown_at_s >= LINE_EVERY_S:
            self._shown, self._shown_at_s = len(observations), elapsed_s
        self._next_s = elapsed_s + self._every_s

    def _clear(self) -> None:
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._width = 0


def describe(observations: list[Observation], length_s: float) -> str:
    """Describe in one line the requests that ended within the last `length_s` seconds."""
    parts = []
    for kind in Kind:
        answered = [seen for seen in observations if seen.kind is kind and seen.outcome is Outcome.OK]
        if answered:
            p95_ms = percentile(sorted(seen.latency_s * 1000 for seen in answered), 95)
            parts.append(f"{kind} {len(answered) / length_s:.1f}/s p95 {p95_ms:.0f} ms")
    for outcome, name in ((Outcome.ERROR, "errors"), (Outcome.SHED, "429s")):
        if count := sum(seen.outcome is outcome for seen in observations):
            parts.append(f"{name} {count}")
    return "  ".join(parts) or "nothing has come back"
