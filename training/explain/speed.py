"""How fast each artifact of a run is, and what it takes: latency by batch and length, throughput, memory, load time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.errors import BackendFailed
from runtime.manifest import read_manifest
from training.data.splits import ExampleSplits, PairSplits
from training.explain import speed_process
from training.explain.contract import Findings, Subject
from training.explain.lineage import name_of
from training.explain.show import BLUE, GREY, ORANGE
from training.explain.words import Words
from training.pages.page import Section, figure

LOADING_LIMIT_S = 600.0  # to load and warm up, and to finish what was begun
TEXTS = 64
TEXT_CHARACTERS = 300


class Cell(Findings):
    """Requests of `batch` items of `tokens` tokens. For generation, `first_token_ms` and `token_ms` (between tokens),
    and `items_per_s` counts new tokens."""

    batch: int
    tokens: int
    runs: int
    p50_ms: float
    p90_ms: float
    items_per_s: float
    first_token_ms: float | None = None
    token_ms: float | None = None


class ArtifactSpeed(Findings):
    """`memory_loaded_bytes`: what loading and warming up added to the process; `memory_peak_bytes`: of all of it."""

    artifact: str
    format: str
    precision: str
    size_bytes: int
    load_s: float
    warm_up_s: float
    memory_loaded_bytes: int
    memory_peak_bytes: int
    cells: tuple[Cell, ...]


class SpeedFindings(Findings):
    """On this machine. `generation`: items are sequences, and what counts a second is new tokens."""

    generation: bool
    threads: int
    new_tokens: int
    artifacts: tuple[ArtifactSpeed, ...]
    failed: tuple[str, ...] = ()  # artifacts that could not be measured, and why


def find(subject: Subject) -> SpeedFindings:
    """Measure every artifact, each in a fresh process. One that cannot be measured is told, and costs nothing else."""
    texts = _texts(subject)
    measured: list[ArtifactSpeed] = []
    failed: list[str] = []
    for artifact in subject.artifacts:
        subject.log(f"speed of {name_of(artifact, subject)}")
        try:
            measured.append(_measure(artifact, name_of(artifact, subject), texts, subject.seconds))
        except BackendFailed as error:
            subject.log(str(error))
            failed.append(str(error))
    generation = read_manifest(subject.artifact).kind == "generation"
    threads = len(os.sched_getaffinity(0))
    return SpeedFindings(
        generation=generation,
        threads=threads,
        new_tokens=speed_process.NEW_TOKENS,
        artifacts=tuple(measured),
        failed=tuple(failed),
    )


def _texts(subject: Subject) -> list[str]:
    if isinstance(subject.splits, PairSplits):
        return [row.text_a for row in subject.splits.rows(subject.split)[:TEXTS]]
    if isinstance(subject.splits, ExampleSplits):
        return [row.source for row in subject.splits.rows(subject.split)[:TEXTS]]
    whole = "\n".join(subject.splits.texts(subject.split))
    return [whole[at : at + TEXT_CHARACTERS] for at in range(0, len(whole), TEXT_CHARACTERS)][:TEXTS]


def _measure(artifact: Path, shown: str, texts: Sequence[str], seconds: float) -> ArtifactSpeed:
    command = [sys.executable, "-m", speed_process.__name__, str(artifact.absolute()), str(seconds)]
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    limit_s = seconds + LOADING_LIMIT_S
    try:
        done = subprocess.run(
            command,
            input=json.dumps(list(texts)),
            capture_output=True,
            text=True,
            timeout=limit_s,
            env=os.environ | {"PYTHONPATH": paths},
        )
    except subprocess.TimeoutExpired:
        raise BackendFailed(
            f"{artifact}: measuring took more than {limit_s:g} s; leave it out with --skip inference."
        ) from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BackendFailed(f"{artifact} cannot be measured: {last}")
    manifest = read_manifest(artifact)
    return ArtifactSpeed(
        artifact=shown,
        format=manifest.format,
        precision=manifest.precision,
        size_bytes=manifest.size_bytes,
        **json.loads(done.stdout.strip().splitlines()[-1]),
    )


# ---------------------------------------------------------------- the page


def show(found: SpeedFindings, section: Section, word: Words) -> None:
    """An artifact a line, a plot of latencies, and every cell."""
    for problem in found.failed:
        section.notice(problem)
    if not found.artifacts:
        return
    section.table(
        [
            word(each)
            for each in (
                "artifact",
                "format",
                "number format",
                "size, MB",
                "load, s",
                "warm-up, s",
                "memory, MB",
                "peak, MB",
            )
        ],
        [
            [
                each.artifact,
                each.format,
                each.precision,
                round(each.size_bytes / 1e6, 2),
                each.load_s,
                each.warm_up_s,
                round(each.memory_loaded_bytes / 1e6, 1),
                round(each.memory_peak_bytes / 1e6, 1),
            ]
            for each in found.artifacts
        ],
        caption=word(
            "Each in a fresh process. Memory: what loading and warming up added; peak: all of the process, libraries "
            "included."
        ),
    )
    _show_plot(found, section, word)
    columns = ["artifact", "batch", "tokens", "p50, ms", "p90, ms"]
    columns += (
        ["first token, ms", "between tokens, ms", "new tokens a second"] if found.generation else ["items a second"]
    )
    columns.append("runs")
    section.table(
        [word(each) for each in columns],
        [
            [
                each.artifact,
                cell.batch,
                cell.tokens,
                cell.p50_ms,
                cell.p90_ms,
                *([cell.first_token_ms, cell.token_ms] if found.generation else []),
                cell.items_per_s,
                cell.runs,
            ]
            for each in found.artifacts
            for cell in each.cells
        ],
        caption=word("Latency and throughput"),
        folded=len(found.artifacts) > 1,
    )


def _show_plot(found: SpeedFindings, section: Section, word: Words) -> None:
    batches = sorted({cell.batch for each in found.artifacts for cell in each.cells})
    if not batches:
        return
    drawn, axes = figure(9, 2.9, len(batches))
    colours = (BLUE, ORANGE, "#2f8f5b", "#8a4fa3", GREY)
    for axis, batch in zip(axes, batches, strict=True):
        for place, each in enumerate(found.artifacts):
            cells = [cell for cell in each.cells if cell.batch == batch]
            style = {"color": colours[place % len(colours)], "label": each.artifact}
            axis.plot([cell.tokens for cell in cells], [cell.p50_ms for cell in cells], "o-", markersize=3, **style)
        axis.set_title(word("batch {batch}", batch=batch), fontsize=9)
        axis.set_xlabel(word("tokens"), fontsize=9)
        axis.set_ylim(bottom=0)
    axes[0].set_ylabel(word("p50, ms"), fontsize=9)
    axes[0].legend(fontsize=8, frameon=False)
    what = word(
        "Median time of a request, with the {threads} threads that this process may use, tokenising left out.",
        threads=found.threads,
    )
    if found.generation:
        what += " " + word("A request is a batch of prompts, each continued by {count} tokens.", count=found.new_tokens)
    section.figure(drawn, what)
