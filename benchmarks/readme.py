"""`python -m benchmarks.readme`: writes the figures of benchmarks/results/ into README.md, so that none is typed."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.table import bench_table
from demo.table import Row, render

RESULTS = Path("benchmarks/results")


def blocks() -> dict[str, str]:
    """Block name -> the text that stands between its markers."""
    demo = json.loads((RESULTS / "demo.json").read_text(encoding="utf-8"))
    bench = json.loads((RESULTS / "match.json").read_text(encoding="utf-8"))
    rows = [Row(**step) for step in demo["steps"]]
    return {
        "demo": f"{render(rows)}\n\n{demo['seconds']:.0f} s in all, after installation, on {_machine(demo)}.",
        "bench": f"{bench_table(bench)}\n\n{_machine(bench)}; {bench['failures']} failed requests.",
    }


def filled(readme: str) -> str:
    """The README with its blocks as the result files have them."""
    for name, text in blocks().items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        body = f"{begin}\n```\n{text}\n```\n{end}"
        readme = re.sub(f"{begin}.*?{end}", lambda _, body=body: body, readme, flags=re.DOTALL)  # type: ignore[misc]
    return readme


def _machine(result: dict[str, Any]) -> str:
    machine = result["machine"]
    return f"{machine['cores']} cores of {machine['cpu']}, Python {machine['python']}"


if __name__ == "__main__":
    path = Path("README.md")
    path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
    sys.exit(0)
