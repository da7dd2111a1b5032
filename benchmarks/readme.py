"""`python -m benchmarks.readme`: writes the figures of benchmarks/results/ into README.md and docs/benchmarks.md, so
that none is typed."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from benchmarks.figures import RESULTS, machine, read_results
from benchmarks.generation.bars import GENERATION_BARS
from benchmarks.matching_bars import MATCHING_BARS
from benchmarks.tables import TABLES, bars_table, section_block
from demo.table import Row, render

DOCUMENTS = (Path("README.md"), Path("docs/benchmarks.md"))


def blocks(directory: Path = RESULTS) -> dict[str, str]:
    """Block name -> the text that stands between its markers."""
    demo = json.loads((directory / "demo.json").read_text(encoding="utf-8"))
    rows = [Row(**step) for step in demo["steps"]]
    table = f"{render(rows)}\n\n{demo['seconds']:.0f} s in all, after installation, on {machine(demo)}."
    results = read_results(directory, list(TABLES))
    named = {f"bench-{section}": section_block(section, results) for section in TABLES}
    bars = {"bench": bars_table(results, MATCHING_BARS), "bench-generation": bars_table(results, GENERATION_BARS)}
    return {"demo": f"```\n{table}\n```", **bars, **named}


def filled(document: str, directory: Path = RESULTS) -> str:
    """The document with its blocks as the result files have them."""
    for name, text in blocks(directory).items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        body = f"{begin}\n{text}\n{end}"
        document = re.sub(f"{begin}.*?{end}", lambda _, body=body: body, document, flags=re.DOTALL)  # type: ignore[misc]
    return document


def write() -> None:
    """Fill every document."""
    for path in DOCUMENTS:
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write()
    sys.exit(0)
