"""Makes artifacts: a step applied, the result sealed, judged beside its parent, and measured."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.errors import InvalidInput
from runtime.load import load_engine
from runtime.manifest import Manifest, Parity, read_manifest, write_manifest
from runtime.manifest import Step as StepRecord
from training.checkpoint import git_commit, kind_of, read_config, seal_checkpoint, versions
from training.compression.measure import Engine, compare, latency_p50_ms, memory_bytes, quality_on_valid
from training.compression.step import GRAPH, Context, Step

# Fields that an artifact has from its parent, unless the step changes them.
INHERITED = ("max_tokens", "threshold", "datasets", "seed")
INHERITED_BY_GRAPHS = ("kind", "architecture", "precision", "tokenizer", "pad_token_id", "labels", "chat_template")
INHERITED_BY_GRAPHS += ("positive_label", "dimensions", "causal", "encoder_graph")
SOURCED = "export, int8 and int4"  # steps that take an encoder-decoder


class ParityError(ValueError):
    """A step changed the model's outputs by more than its tolerance."""


def make_artifact(step: Step, source: Path, target: Path, context: Context, *, judged: bool = True) -> Manifest:
    """Apply `step` to the artifact `source`; `target` appears when all is well, and replaces what was there.

    `judged`: with parity, quality and memory; else its size and latency are all that is known of it.
    Raises InvalidInput: a source that the step cannot work on; ParityError.
    """
    parent = read_manifest(source)
    check_source(step, parent, str(source))
    with making(target) as directory:
        done = step.apply(source, directory, context)
        fields = _fields(step, parent, done, source, directory)
        manifest = _seal(directory, fields)
        before = load_engine(source) if step.compares and judged else None
        after = load_engine(directory)
        try:
            record, threshold = _judge(step, done, manifest, before, after, context, judged)
        finally:
            for engine in filter(None, (before, after)):
                engine.close()
        if context.splits is not None and judged:
            record = record.model_copy(update={"memory_bytes": memory_bytes(directory, context.probe)})
        if threshold is not None:
            fields["threshold"] = threshold
        return _seal(directory, fields | {"steps": (*parent.steps, record)})


def check_source(step: Step, parent: Manifest, where: str) -> None:
    """Raises InvalidInput where `step` is not for such an artifact."""
    if parent.kind not in step.kinds:
        raise InvalidInput(f"{where} is of kind {parent.kind}; the step {step.step} is for {' and '.join(step.kinds)}.")
    if parent.causal and parent.causal.has_source and not step.takes_source:
        raise InvalidInput(f"{where} is an encoder-decoder; the step {step.step} is not for these, {SOURCED} are.")
    if parent.format != step.consumes:
        hint = "put it after an export" if step.consumes == "onnx" else "put it before the export"
        raise InvalidInput(f"{where} is of format {parent.format}; the step {step.step} takes {step.consumes}: {hint}.")
    if step.precision and parent.precision != "fp32":
        raise InvalidInput(f"{where} has precision {parent.precision}; the step {step.step} takes fp32.")


@contextmanager
def making(target: Path) -> Iterator[Path]:
    """A working directory beside `target` that takes its place when the block ends well, and vanishes when not."""
    directory = target.with_name(f".{target.name}.partial")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    try:
        yield directory
        shutil.rmtree(target, ignore_errors=True)
        directory.rename(target)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def describe(manifest: Manifest) -> str:
    """The newest step of a manifest in one line."""
    step = manifest.steps[-1]
    parity = step.parity
    near = f"{parity.metric} {parity.value:.2g} (<= {parity.tolerance:g})" if parity else ""
    quality = ", ".join(f"{name} {value:.4f}" for name, value in step.quality.items())
    cost = f"{step.size_bytes / 1e6:.1f} MB, p50 {step.latency_p50_ms or 0:.2f} ms"
    memory = f"{step.memory_bytes / 1e6:.0f} MB of memory" if step.memory_bytes else ""
    return f"{step.name}: " + ", ".join(part for part in (cost, memory, near, quality) if part)


def _fields(step: Step, parent: Manifest, done: dict[str, Any], source: Path, directory: Path) -> dict[str, Any]:
    """What the manifest says, but for the files and the step; an ONNX artifact gets its tokenizer from its parent."""
    fields = {key: getattr(parent, key) for key in INHERITED} | {"format": step.produces, "parent": parent.digest}
    if step.produces == "onnx":
        for file in filter(None, (parent.tokenizer, parent.chat_template)):
            shutil.copyfile(source / file, directory / file)
        fields |= {key: getattr(parent, key) for key in INHERITED_BY_GRAPHS}
        fields |= {"graph": GRAPH, "versions": versions(), "git_commit": git_commit()}
        if step.precision:
            fields["precision"] = step.precision
    elif parent.kind == "matching" and kind_of(read_config(directory), directory) == "matching":
        fields["positive"] = parent.match_labels[1]
    return fields | step.changed(parent, done)


def _seal(directory: Path, fields: dict[str, Any]) -> Manifest:
    return (seal_checkpoint if fields["format"] == "torch" else write_manifest)(directory, **fields)


def _judge(
    step: Step,
    done: dict[str, Any],
    manifest: Manifest,
    before: Engine | None,
    after: Engine,
    context: Context,
    judged: bool,
) -> tuple[StepRecord, float | None]:
    """The record of the step, without the memory; and the threshold chosen on valid, where there is data.

    Raises ParityError.
    """
    parity: Parity | None = None
    if before and step.compares and step.tolerance is not None:
        parity = compare(before, after, context.probe, step.compares, step.tolerance)
        if not parity.ok:
            raise ParityError(
                f"{step.step}: {parity.metric} is {parity.value:.4g}, the recipe allows {parity.tolerance:g}. Raise "
                "the tolerance only if the quality on your data allows it, or keep the parent's precision."
            )
    quality = quality_on_valid(after, context.splits, before) if context.splits and judged else None
    record = StepRecord(
        name=step.step,
        settings=done,
        parity=parity,
        size_bytes=manifest.size_bytes,
        latency_p50_ms=round(latency_p50_ms(after, context.probe), 3),
        quality=quality.metrics if quality else {},
    )
    return record, quality.threshold if quality else None
