"""The texts: distinct pairs, read once, and the bodies in which each server wants them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from runtime.contract import Pair

SAMPLES = tuple(Path(f"training/samples/banking77-pairs/{split}.jsonl") for split in ("train", "test"))


def read_pairs(files: Sequence[Path]) -> list[Pair]:
    """All distinct pairs of some JSONL files, in their order."""
    rows = (json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines())
    return list(dict.fromkeys(Pair(row["text_a"], row["text_b"]) for row in rows))


def spaced(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """`count` pairs from all over the list, or all where there are fewer."""
    return list(pairs[:: max(1, len(pairs) // count)][:count])


def queries(pairs: Sequence[Pair], documents: int) -> list[tuple[str, list[str]]]:
    """Queries with `documents` documents each: the next first text, and the next so many second texts."""
    starts = range(0, len(pairs) - documents + 1, documents)
    return [(pairs[start].text_a, [pair.text_b for pair in pairs[start : start + documents]]) for start in starts]


def write_bodies(path: Path, items: Iterable[Any], body: Callable[[Any], object]) -> Path:
    """One JSON document a line, for the drivers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(body(item)) + "\n" for item in items), encoding="utf-8")
    return path
