"""A benchmark's result as rows of text, each throughput with its ratio to the raw limit of the served artifact."""

from __future__ import annotations

from typing import Any


def bench_table(result: dict[str, Any]) -> str:
    """Fixed-width text of a result of `python -m benchmarks`."""
    limit = result["figures"]["raw int8 pairs/s"]["median"]
    lines = [f"{'':<34}{'median':>9}{'min':>9}{'max':>9}{'of raw':>9}"]
    for name, figure in result["figures"].items():
        ratio = f"{figure['median'] / limit:>9.2f}" if name.endswith("pairs/s") else ""
        lines.append(f"{name:<34}{figure['median']:>9.1f}{figure['min']:>9.1f}{figure['max']:>9.1f}{ratio}")
    return "\n".join(lines)
