"""`python -m training compress CONFIG|FOLDER`: checkpoint -> fp32 ONNX -> fp16 for GPUs, int8 for CPUs; each step an
artifact, checked and measured.

A step is refused when its output is further from its parent's than the recipe allows. What it cost and gained (size,
latency, quality) goes into the manifest of the artifact it made.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from models import causal_lm
from models.bi_encoder import read_head
from records.document import DocumentError, read_document
from runtime.contract import Pair, PairResult, Sampling, Token
from runtime.encoder import EncoderEngine
from runtime.errors import InvalidInput, SluiceError
from runtime.load import load_engine
from runtime.manifest import MANIFEST_FILE, Manifest, Parity, Step, read_manifest, write_manifest
from training.causal_graph import write_causal_graph
from training.checkpoint import adopt_folder, git_commit, read_config, versions
from training.data.errors import DataError
from training.encoder_graph import write_encoder_graph
from training.half import halve_encoder
from training.probe import Engine, Probe, recipe_probe, sampled_texts, vocabulary_texts
from training.quantization import quantize_decoder, quantize_encoder
from training.recipe import Compress, Recipe

GRAPH = "model.onnx"
LATENCY_RUNS = 40
COMPARED = {"matching": "score", "embedding": "cosine", "generation": "log p"}


class ParityError(ValueError):
    """A step changed the model's outputs by more than its tolerance."""


def export_fp32(checkpoint: Path, target: Path, probe: Probe, tolerance: float) -> Manifest:
    """Checkpoint -> fp32 ONNX artifact in `target`.

    Parity: largest |difference| of scores, of cosines (embedding) or of log-probabilities (generation).
    """
    parent = read_manifest(checkpoint)
    with _making(target) as directory:
        graph = directory / GRAPH
        changed: dict[str, Any] = {}
        settings: dict[str, Any]
        if parent.kind != "generation":
            settings = {"fused": write_encoder_graph(checkpoint, parent.kind, graph)}
        else:
            model = causal_lm.load(checkpoint)
            state = {name: value.numpy() for name, value in model.state_dict().items()}
            head_dim = write_causal_graph(read_config(checkpoint), state, graph)
            assert parent.causal is not None  # kind "generation"
            changed["causal"] = parent.causal.model_copy(update={"head_dim": head_dim})
            settings = {"attention": "GroupQueryAttention, shared cache", "head_dim": head_dim}
        return _seal(directory, checkpoint, "export-fp32", settings, probe, tolerance, _largest_difference, **changed)


def quantize_int8(source: Path, target: Path, probe: Probe, tolerance: float) -> Manifest:
    """fp32 ONNX artifact -> int8 artifact in `target`.

    Parity: mean |difference| of scores or of cosines, or relative change of perplexity (generation).
    """
    parent = read_manifest(source)
    with _making(target) as directory:
        quantize = quantize_decoder if parent.kind == "generation" else quantize_encoder
        settings = quantize(source / GRAPH, directory / GRAPH)
        return _seal(
            directory, source, "quantize-int8", settings, probe, tolerance, _typical_difference, precision="int8"
        )


def halve_fp16(source: Path, target: Path, probe: Probe, tolerance: float) -> Manifest:
    """fp32 ONNX artifact of an encoder -> fp16 artifact in `target`.

    Parity: largest |difference| of scores or of cosines, on this machine's CPU. Raises InvalidInput for a generation
    model, whose cache is fp32.
    """
    parent = read_manifest(source)
    if parent.kind == "generation":
        raise InvalidInput(f"{source} is of kind generation; fp16 is for encoders. Choose fp32 or int8.")
    with _making(target) as directory:
        settings = halve_encoder(source / GRAPH, directory / GRAPH)
        return _seal(directory, source, "halve-fp16", settings, probe, tolerance, _largest_difference, precision="fp16")


def compress_recipe(recipe: Recipe, log: Callable[[str], None]) -> dict[str, Path]:
    """Run the recipe's steps on its checkpoint; returns precision -> artifact directory."""
    if not (recipe.run / "checkpoint" / MANIFEST_FILE).is_file():
        raise InvalidInput(
            f"{recipe.run} has no checkpoint yet; run `python -m training train` with this recipe first."
        )
    probe = recipe_probe(recipe)
    return _steps(recipe.run, recipe.compress, probe, lambda _: probe, log)


def compress_folder(
    folder: Path, run: Path, settings: Compress, log: Callable[[str], None], **adopted: Any
) -> dict[str, Path]:
    """A transformers or sentence-transformers folder -> `run`/checkpoint, then the same steps, judged without data.

    `adopted`: for `adopt_folder`. Raises InvalidInput: a folder that is not supported, or a checkpoint that is there.
    """
    checkpoint = run / "checkpoint"
    if checkpoint.exists():
        raise InvalidInput(f"{checkpoint} is there already; choose another place with --run, or remove {run}.")
    with _making(checkpoint) as directory:
        manifest = adopt_folder(folder, directory, **adopted)
    log(f"{folder}: {_summary(manifest, checkpoint)}")
    probe = Probe(vocabulary_texts(checkpoint))
    # Perplexity on random tokens would say nothing of a language model's quality.
    likely = (lambda fp32: Probe(sampled_texts(fp32))) if manifest.kind == "generation" else (lambda _: probe)
    return _steps(run, settings, probe, likely, log)


def _steps(
    run: Path, settings: Compress, probe: Probe, int8_probe: Callable[[Path], Probe], log: Callable[[str], None]
) -> dict[str, Path]:
    made = {"fp32": run / "fp32"}
    log(describe(export_fp32(run / "checkpoint", made["fp32"], probe, settings.fp32_tolerance)))
    if "fp16" in settings.precisions:
        made["fp16"] = run / "fp16"
        log(describe(halve_fp16(made["fp32"], made["fp16"], probe, settings.fp16_tolerance)))
    if "int8" in settings.precisions:
        made["int8"] = run / "int8"
        tolerance = settings.int8_tolerance
        log(describe(quantize_int8(made["fp32"], made["int8"], int8_probe(made["fp32"]), tolerance)))
    return made


def _summary(manifest: Manifest, checkpoint: Path) -> str:
    text = f"{manifest.kind}, {manifest.architecture}, at most {manifest.max_tokens} tokens"
    if manifest.kind == "embedding":
        text += f", pooling {' and '.join(read_head(checkpoint).poolings)}, {manifest.dimensions} dimensions"
    return text


def describe(manifest: Manifest) -> str:
    """The newest step of a manifest in one line."""
    step = manifest.steps[-1]
    parity = step.parity
    near = f"{parity.metric} {parity.value:.2g} (<= {parity.tolerance:g})" if parity else ""
    quality = ", ".join(f"{name} {value:.4f}" for name, value in step.quality.items())
    cost = f"{step.size_bytes / 1e6:.1f} MB, p50 {step.latency_p50_ms or 0:.2f} ms"
    return f"{step.name}: " + ", ".join(part for part in (cost, near, quality) if part)


# ---------------------------------------------------------------- measuring


def _outputs(engine: Engine, probe: Probe) -> np.ndarray:
    """Scores of the probe's pairs (cosines of a bi-encoder's), or log-probabilities of its texts' tokens."""
    if isinstance(engine, EncoderEngine):
        scores = np.asarray([_score(result) for result in engine.score(probe.pairs)])
        return 2 * scores - 1 if engine.manifest.kind == "embedding" else scores
    encoded = [engine.encode(text)[: engine.context] for text in probe.texts]
    return np.asarray([value for ids in encoded if len(ids) > 1 for value in engine.log_probs(ids)])


def _score(result: PairResult | SluiceError) -> float:
    if isinstance(result, SluiceError):
        raise result
    return result.score


def _largest_difference(before: np.ndarray, after: np.ndarray, kind: str) -> tuple[str, float]:
    return f"max |Δ {COMPARED[kind]}|", float(np.abs(before - after).max())


def _typical_difference(before: np.ndarray, after: np.ndarray, kind: str) -> tuple[str, float]:
    if kind != "generation":
        return f"mean |Δ {COMPARED[kind]}|", float(np.abs(before - after).mean())
    return "|Δ perplexity| / perplexity", abs(float(np.exp(before.mean() - after.mean())) - 1)


def latency_p50_ms(engine: Engine, probe: Probe) -> float:
    """Median milliseconds of one pair of about 32 tokens, of one text of about 32 tokens (embedding), or of one
    generated token after a short prompt."""
    if isinstance(engine, EncoderEngine):
        # Of a bi-encoder a pair of equal texts is one text.
        pairs = [Pair(text, text) for text in probe.texts] if engine.manifest.kind == "embedding" else probe.pairs
        pair = min(pairs, key=lambda pair: abs(len(engine.prepare([pair]).items[0]) - 32))
        times = []
        for _ in range(LATENCY_RUNS):
            begun = time.perf_counter()
            engine.score([pair])
            times.append(time.perf_counter() - begun)
        return statistics.median(times) * 1000
    count = min(LATENCY_RUNS, engine.context // 2)
    prompt = probe.texts[0][: engine.context // 8]  # a character has at most four tokens
    stream = engine.generate(prompt, Sampling(max_tokens=count, temperature=1.0, seed=7, ignore_eos=True))
    ends = [time.perf_counter() for event in stream if isinstance(event, Token)]
    steps = np.diff(ends) if len(ends) > 1 else np.zeros(1)
    return float(np.median(steps)) * 1000


# ---------------------------------------------------------------- artifacts


@contextmanager
def _making(target: Path) -> Iterator[Path]:
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


def _seal(
    directory: Path,
    source: Path,
    name: str,
    settings: dict[str, Any],
    probe: Probe,
    tolerance: float,
    compare: Callable[[np.ndarray, np.ndarray, str], tuple[str, float]],
    **changed: Any,
) -> Manifest:
    """Make `directory` an artifact whose parent is `source`, then judge the step and record it."""
    parent = read_manifest(source)
    for file in filter(None, (parent.tokenizer, parent.chat_template)):
        shutil.copyfile(source / file, directory / file)
    inherited = ("kind", "architecture", "precision", "max_tokens", "tokenizer", "pad_token_id", "labels")
    inherited += ("chat_template", "positive_label", "threshold", "dimensions", "causal", "datasets", "seed", "steps")
    fields = {key: getattr(parent, key) for key in inherited} | changed
    fields |= {
        "format": "onnx",
        "graph": GRAPH,
        "parent": parent.digest,
        "versions": versions(),
        "git_commit": git_commit(),
    }
    manifest = write_manifest(directory, **fields)
    before, after = load_engine(source), load_engine(directory)
    try:
        metric, value = compare(_outputs(before, probe), _outputs(after, probe), parent.kind)
        parity = Parity(metric=metric, value=value, tolerance=tolerance)
        if not parity.ok:
            raise ParityError(
                f"{name}: {metric} is {value:.4g}, the recipe allows {tolerance:g}. Raise the tolerance only if the "
                "quality on your data allows it, or keep the parent's precision."
            )
        step = Step(
            name=name,
            settings=settings,
            parity=parity,
            size_bytes=manifest.size_bytes,
            latency_p50_ms=round(latency_p50_ms(after, probe), 3),
            quality=probe.quality(after) if probe.quality else {},
        )
    finally:
        before.close()
        after.close()
    return write_manifest(directory, **(fields | {"steps": (*parent.steps, step)}))


def main(arguments: list[str]) -> int:
    """The command. Exit codes: 0 done, 1 a step was refused or has no input, 2 wrong usage or recipe."""
    parser = argparse.ArgumentParser(prog="python -m training compress", description=__doc__.splitlines()[0])
    parser.add_argument("what", type=Path, help="recipe (YAML), or a transformers or sentence-transformers folder")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="replace settings of the recipe")
    parser.add_argument("--run", type=Path, help="of a folder: where its artifacts go; default runs/NAME-OF-THE-FOLDER")
    options = parser.parse_intermixed_args(arguments)
    try:
        made = _compress(options.what, options.overrides, options.run)
    except DocumentError as error:
        print(error, file=sys.stderr)
        return 2
    except (SluiceError, DataError, ValueError) as error:
        print(f"compress: {error}", file=sys.stderr)
        return 1
    print("made: " + ", ".join(f"{precision} {path}" for precision, path in made.items()))
    return 0


def _compress(what: Path, overrides: list[str], run: Path | None) -> dict[str, Path]:
    def log(line: str) -> None:
        print(line, flush=True)

    if what.is_dir():
        if overrides:
            raise InvalidInput(f"Overrides ({', '.join(overrides)}) need a recipe to apply to; {what} is a folder.")
        return compress_folder(what, run or Path("runs") / what.absolute().name, Compress(), log)
    if run:
        raise InvalidInput(f"--run is for a folder; {what} says where its run lies.")
    return compress_recipe(read_document(what, Recipe, overrides), log)
