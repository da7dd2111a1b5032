"""How much memory this process has in RAM, as Linux accounts for it. Imports nothing, so that it can be measured."""

from __future__ import annotations

import re
from pathlib import Path


def resident_bytes() -> int:
    """Now."""
    return _status("VmRSS")


def peak_resident_bytes() -> int:
    """The most so far. getrusage would count what the process had that started this one, too."""
    return _status("VmHWM")


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) * 1024
