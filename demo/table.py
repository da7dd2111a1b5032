"""What happened, as one table on the terminal and one JSON file for whoever quotes it."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path


@dataclass
class Row:
    """One step: what it was, what came out, how long it took, where to look."""

    step: str
    result: str
    seconds: float
    where: str = ""
    figures: dict[str, float] = field(default_factory=dict)


def render(rows: list[Row]) -> str:
    """Fixed-width text, one line a step."""
    cells = [("STEP", "RESULT", "SECONDS", "WHERE")]
    cells += [(row.step, row.result, f"{row.seconds:.0f}", row.where) for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def write(rows: list[Row], path: Path) -> None:
    """The same rows with their figures, and the machine they were measured on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "command": "make demo",
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": cpu_name(), "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()},
        "seconds": round(sum(row.seconds for row in rows), 1),
        "steps": [asdict(row) for row in rows],
    }
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def cpu_name() -> str:
    """The processor's model, as the kernel tells it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
