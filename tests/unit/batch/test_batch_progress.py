"""A bar on a terminal, lines in a log."""

from __future__ import annotations

import io

import pytest

from batch import progress
from batch.progress import Progress

pytestmark = pytest.mark.unit


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drive(stream: io.StringIO) -> str:
    shown = Progress(stream)
    shown.say("begin")
    shown.begin(1000, 200)
    for _ in range(8):
        shown.move(100)
    shown.end()
    return stream.getvalue()


def test_a_terminal_has_a_bar_that_is_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "BAR_EVERY_S", 0.0)
    text = drive(Terminal())
    assert "[############............]  50% 500/1,000 rows" in text
    assert text.endswith("; 200 were done before\n")
    last = text.rpartition("\n")[0].rpartition("\n")[2]
    assert last.rpartition("\x1b[K")[2].startswith("800 rows in ")  # nothing of the bar is left on the line


def test_a_log_has_plain_lines_and_not_one_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    text = drive(io.StringIO())
    assert "\r" not in text
    assert len(text.splitlines()) == 2
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    lines = drive(io.StringIO()).splitlines()
    assert lines[1].startswith(" 30% 300/1,000 rows")
    assert len(lines) == 10


def test_notes_are_not_kept_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "BAR_EVERY_S", 0.0)
    stream = Terminal()
    shown = Progress(stream)
    shown.note("reading x" + "x" * 500)
    shown.say("done")
    lines = stream.getvalue().split("\n")
    assert lines[-2].endswith("\x1b[Kdone")
    assert len(lines) == 2
