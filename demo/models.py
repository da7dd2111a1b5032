"""Making the models of the demo. Two are trained, compressed, evaluated before and after, published and promoted; the
third is a bi-encoder that comes as a package: exported, quantised, published and promoted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

from demo.commands import run
from demo.table import Row

RECIPES = {"matching": "training/recipes/demo-matching.yaml", "generation": "training/recipes/demo-generation.yaml"}
ADOPTED = {"embedding": "packaged:minilm"}
NAMES = (*RECIPES, *ADOPTED)
LOGS = Path("reports/demo")
# What one line can show of an evaluation.
SHOWN = {"matching": ("f1", "roc_auc"), "generation": ("perplexity",)}


def published(name: str) -> dict[str, Any] | None:
    """The production version of `name` as `models show --json` tells it; None where there is none."""
    shown = subprocess.run(
        [sys.executable, "-m", "training", "models", "show", f"{name}:production", "--json"],
        capture_output=True,
        text=True,
    )
    return json.loads(shown.stdout) if shown.returncode == 0 else None


def make(name: str) -> Iterator[Row]:
    """Yield a row as each step ends."""
    yield from _train(name) if name in RECIPES else _adopt(name)


def _train(name: str) -> Iterator[Row]:
    recipe, log, directory = RECIPES[name], LOGS / f"{name}.log", Path("runs") / name

    begun = monotonic()
    run("training", "train", recipe, log=log)
    yield Row(f"train {name}", "checkpoint", monotonic() - begun, str(directory / "checkpoint"))

    begun = monotonic()
    run("training", "compress", recipe, log=log)
    steps = _manifest(directory / "int8")["steps"]
    for step in steps:
        figures = {"size_mb": step["size_bytes"] / 1e6, "p50_ms": step["latency_p50_ms"]}
        parity = step["parity"]
        text = f"{figures['size_mb']:.1f} MB, p50 {figures['p50_ms']:.2f} ms, {parity['metric']} {parity['value']:.2g}"
        precision = "int8" if "int8" in step["name"] else "fp32"
        yield Row(
            f"{step['name']} {name}", text, (monotonic() - begun) / len(steps), str(directory / precision), figures
        )

    # Training has evaluated the checkpoint on test, once; its figures are "before".
    before = _test_metrics(directory / "checkpoint")
    yield Row(f"{name} before", _shown(name, before), 0.0, str(directory / "checkpoint"), before)
    begun = monotonic()
    run("training", "evaluate", str(directory / "int8"), "--recipe", recipe, log=log)
    after = _test_metrics(directory / "int8")
    yield Row(f"{name} after", _shown(name, after), monotonic() - begun, str(directory / "int8"), after)

    begun = monotonic()
    run("training", "publish", recipe, "--promote", log=log)
    yield _published_row(name, monotonic() - begun)


def _adopt(name: str) -> Iterator[Row]:
    begun = monotonic()
    how = ["--name", name, "--precision", "int8", "--promote"]
    run("training", "publish", ADOPTED[name], *how, log=LOGS / f"{name}.log")
    yield _published_row(name, monotonic() - begun)


def _published_row(name: str, seconds: float) -> Row:
    entry = published(name)
    assert entry is not None  # the command before has just promoted it
    where = f"python -m training models show {name}"
    figures = {"size_mb": entry["size_bytes"] / 1e6}
    return Row(f"publish {name}", f"{entry['tag']} is {entry['stage']}", seconds, where, figures)


def _manifest(directory: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    return manifest


def _test_metrics(directory: Path) -> dict[str, float]:
    metrics: dict[str, float] = next(
        each["metrics"] for each in _manifest(directory)["evaluations"] if each["split"] == "test"
    )
    return metrics


def _shown(name: str, metrics: dict[str, float]) -> str:
    return "on test: " + ", ".join(f"{metric} {metrics[metric]:.4f}" for metric in SHOWN[name])
