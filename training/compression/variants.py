"""int8 by measurement: every form that an encoder's graph can have is made, judged on valid and timed on this machine;
the fastest of those within the gate is taken."""

from __future__ import annotations

import platform
import shutil
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.errors import InvalidInput
from runtime.load import load_engine
from runtime.manifest import read_manifest
from training.compression.artifact import make_artifact
from training.compression.measure import Engine, compare, interleaved_ms, quality_on_valid
from training.compression.step import GRAPH, Context
from training.data.splits import PairSplits

if TYPE_CHECKING:
    from training.compression.int8 import Int8

GATED = ("f1", "average_precision")


@dataclass(frozen=True, slots=True)
class Trial:
    """A form and what it came to. `distance`: of its outputs from the parent's, which `tolerance` limits."""

    form: str
    per_channel: bool
    reduce_range: bool
    p50_ms: float
    f1: float
    average_precision: float
    distance: float

    def passes(self, parent: Mapping[str, float], gate: float, tolerance: float) -> bool:
        """Whether F1 and average precision are `gate` times the parent's, and the outputs near enough."""
        near = self.distance <= tolerance
        return near and all(getattr(self, figure) >= gate * parent[figure] for figure in GATED)


def choose_variant(step: Int8, source: Path, directory: Path, context: Context) -> dict[str, Any]:
    """Write the graph of the best int8 form of the artifact `source` into `directory`; returns its settings and, as
    `tried`, what all of them came to.

    Raises InvalidInput: no data; no form within the gate.
    """
    splits = context.splits
    if not isinstance(splits, PairSplits):
        raise InvalidInput("int8 of form auto is judged on valid: compress a recipe with data, not a folder.")
    variants = {str(context.work / f"variant-{number}"): each for number, each in enumerate(_variants(step))}
    with ExitStack() as opened:

        def load(folder: str | Path) -> Engine:
            engine = load_engine(Path(folder))
            opened.callback(engine.close)
            return engine

        before = load(source)
        parent = quality_on_valid(before, splits).metrics
        engines: dict[str, Engine] = {}
        for folder, variant in variants.items():
            make_artifact(variant, source, Path(folder), context, judged=False)
            engines[folder] = load(folder)
        times = interleaved_ms(engines, context.probe)
        trials: dict[str, Trial] = {}
        for folder, variant in variants.items():
            quality = quality_on_valid(engines[folder], splits, before).metrics
            trials[folder] = Trial(
                variant.form,
                variant.per_channel,
                variant.reduce_range,
                p50_ms=round(statistics.median(times[folder]), 3),
                f1=round(quality["f1"], 6),
                average_precision=round(quality["average_precision"], 6),
                distance=compare(before, engines[folder], context.probe, "typical", step.tolerance).value,
            )
            context.log(f"int8: tried {_told(trials[folder])}")
    chosen = fastest_within(list(trials.values()), parent, step.gate, step.tolerance)
    folder = next(folder for folder, trial in trials.items() if trial is chosen)
    shutil.copyfile(Path(folder) / GRAPH, directory / GRAPH)
    done = read_manifest(Path(folder)).steps[-1].settings
    return done | {"form": chosen.form, "tried": [asdict(trial) for trial in trials.values()]}


def fastest_within(trials: Sequence[Trial], parent: Mapping[str, float], gate: float, tolerance: float) -> Trial:
    """The fastest that passes. Raises InvalidInput, which says what there was, where none does."""
    passing = [trial for trial in trials if trial.passes(parent, gate, tolerance)]
    if not passing:
        tried = "; ".join(map(_told, trials))
        raise InvalidInput(
            f"int8: no form has {gate:g} of its parent's F1 {parent['f1']:.4f} and average precision "
            f"{parent['average_precision']:.4f} within the tolerance of {tolerance:g}: {tried}. "
            "Lower gate, or keep fp32."
        )
    return min(passing, key=lambda trial: trial.p50_ms)


def _variants(step: Int8) -> list[Int8]:
    # Without VNNI, x86 sums two products of 8 bits in 16, where they may not fit.
    ranges = (False,) if _has_vnni(Path("/proc/cpuinfo")) else (False, True)
    settings = product(("dynamic", "static"), (True, False), ranges)
    keys = ("form", "per_channel", "reduce_range")
    return [step.model_copy(update=dict(zip(keys, each, strict=True))) for each in settings]


def _has_vnni(cpuinfo: Path) -> bool:
    """Whether products of 8 bits are summed in 32: what is not x86 does."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    return cpuinfo.exists() and "_vnni" in cpuinfo.read_text(encoding="utf-8")


def _told(trial: Trial) -> str:
    scales = "a scale a channel" if trial.per_channel else "one scale"
    bits = ", 7 bits" if trial.reduce_range else ""
    figures = f"p50 {trial.p50_ms:.2f} ms, F1 {trial.f1:.4f}, average precision {trial.average_precision:.4f}"
    return f"{trial.form}, {scales}{bits}: {figures}, distance {trial.distance:.2g}"
