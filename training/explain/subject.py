"""A run folder, an artifact or a recipe -> the subject of an explanation, with what its artifacts say of the data."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from records.document import read_document
from runtime.contract import Pair, PairResult
from runtime.encoder import EncoderEngine
from runtime.errors import InvalidInput, SluiceError
from runtime.generation import GenerationEngine
from runtime.load import load_engine
from runtime.manifest import MANIFEST_FILE, read_manifest
from runtime.matching import class_probabilities
from training.data.splits import ExampleSplits, PairSplits, Splits, load_splits
from training.data.texts import TextSplits
from training.evaluate import Engine
from training.explain.contract import F64, Costs, ScoredRows
from training.explain.likelihood import TextLosses, example_losses, text_losses
from training.metrics import best_threshold
from training.recipe import Recipe
from training.run_record import RECORD_FILE, read_record

CHECKPOINT = "checkpoint"
T = TypeVar("T")


class LoadedSubject:
    """See `contract.Subject`. Holds one engine, that of the explained artifact; other artifacts are loaded, scored and
    let go."""

    def __init__(
        self,
        artifact: Path,
        recipe: Recipe,
        *,
        run: Path | None,
        split: str = "valid",
        costs: Costs | None = None,
        most_rows: int = 4000,
        seconds: float = 12.0,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.artifact, self.recipe, self.run, self.split = artifact, recipe, run, split
        self.costs, self.seconds, self.seed, self.log = costs or Costs(), seconds, recipe.seed, log
        self.kind = read_manifest(artifact).kind
        self.artifacts = related(artifact, run)
        self.splits: Splits = load_splits(recipe)
        # What an artifact of each kind is explained with; of those that generate, by whether they have a source.
        causal = read_manifest(artifact).causal
        wanted = PairSplits if causal is None else ExampleSplits if causal.has_source else TextSplits
        if not isinstance(self.splits, wanted):
            raise InvalidInput(f"{artifact} is of kind {self.kind}, and the recipe's data is for {recipe.data.kind}.")
        self._most_rows = most_rows
        self._engine: Engine | None = None
        self._scored: dict[tuple[str, str], ScoredRows] = {}
        self._losses: dict[tuple[str, str], TextLosses] = {}

    def scored(self, artifact: Path, split: str) -> ScoredRows:
        """See `contract.Subject`."""
        key = (str(artifact), split)
        if key not in self._scored:
            self.log(f"scores of {split} by {artifact}")
            self._scored[key] = self._with_engine(artifact, lambda engine: self._score_split(engine, split))
        return self._scored[key]

    def losses(self, artifact: Path, split: str) -> TextLosses:
        """See `contract.Subject`."""
        key = (str(artifact), split)
        if key not in self._losses:
            self.log(f"losses on {split} by {artifact}")
            self._losses[key] = self._with_engine(artifact, lambda engine: self._split_losses(engine, split))
        return self._losses[key]

    def encode(self, text: str) -> Sequence[int]:
        """See `contract.Subject`."""
        return self._with_engine(self.artifact, lambda engine: engine.encode(text))

    def score(self, pairs: Sequence[Pair]) -> F64:
        """See `contract.Subject`."""
        return self._with_engine(self.artifact, lambda engine: _scores(engine, pairs))

    def close(self) -> None:
        """Let go of the engine."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _with_engine(self, artifact: Path, use: Callable[[Engine], T]) -> T:
        if artifact == self.artifact:
            self._engine = self._engine or open_engine(artifact)
            return use(self._engine)
        engine = open_engine(artifact)
        try:
            return use(engine)
        finally:
            engine.close()

    def _score_split(self, engine: Engine, split: str) -> ScoredRows:
        assert isinstance(self.splits, PairSplits)
        assert isinstance(engine, EncoderEngine)
        rows = self.splits.rows(split)
        if len(rows) > self._most_rows:
            drawn = np.random.default_rng(self.seed).permutation(len(rows))[: self._most_rows]
            rows = [rows[place] for place in sorted(drawn.tolist())]
        results = _results(engine, [Pair(row.text_a, row.text_b) for row in rows])
        truth = np.asarray([row.label == self.splits.positive for row in rows])
        scores = np.asarray([result.score for result in results], float)
        classes = None
        if len(engine.manifest.labels) > 2 and results[0].logits is not None:
            classes = np.stack([class_probabilities(result.logits) for result in results]).astype(float)
        return ScoredRows(
            rows=rows,
            truth=truth,
            scores=scores,
            threshold=self._threshold(engine, split, scores, truth),
            tokens=np.asarray([result.tokens for result in results]),
            dropped_tokens=np.asarray([result.dropped_tokens for result in results]),
            classes=classes,
        )

    def _split_losses(self, engine: Engine, split: str) -> TextLosses:
        assert isinstance(engine, GenerationEngine)
        if isinstance(self.splits, ExampleSplits):
            return example_losses(engine, self.splits.rows(split))
        assert isinstance(self.splits, TextSplits)
        return text_losses(engine, list(zip(self.splits.sources[split], self.splits.texts(split), strict=True)))

    def _threshold(self, engine: EncoderEngine, split: str, scores: F64, truth: np.ndarray) -> float:
        """The artifact's own; a bi-encoder that was published without data has none, and takes valid's best."""
        own = engine.manifest.threshold
        if own is not None or self.kind != "embedding":
            return engine.manifest.decision_threshold
        if split == "valid":
            return best_threshold(scores, truth)
        return self.scored(self.artifact, "valid").threshold


def open_engine(artifact: Path) -> Engine:
    """An engine for offline work, without the libraries' own noise."""
    if read_manifest(artifact).format == "torch":
        from training.progress import quiet_libraries  # loads transformers, which other formats do without

        quiet_libraries()
    engine = load_engine(artifact)
    assert isinstance(engine, EncoderEngine | GenerationEngine)
    return engine


def _results(engine: EncoderEngine, pairs: Sequence[Pair]) -> list[PairResult]:
    with tqdm(total=len(pairs), desc="score", unit="pair", disable=not sys.stderr.isatty(), leave=False) as bar:
        results = engine.score(pairs, progress=bar.update)
    scored: list[PairResult] = []
    for result in results:
        if isinstance(result, SluiceError):
            raise result
        scored.append(result)
    return scored


def _scores(engine: Engine, pairs: Sequence[Pair]) -> F64:
    assert isinstance(engine, EncoderEngine)
    return np.asarray([result.score for result in _results(engine, pairs)], float)


# ---------------------------------------------------------------- what there is to explain


def locate(what: Path, recipe_file: Path | None, overrides: Sequence[str]) -> tuple[Path, Recipe, Path | None]:
    """The artifact, the recipe that knows its data, and the run folder, if it lies in one.

    `what`: a run folder (its checkpoint is explained), an artifact, or a recipe (its run). Raises InvalidInput,
    DocumentError.
    """
    if what.is_file():
        recipe = read_document(what, Recipe, overrides)
        return _checkpoint(recipe.run), recipe, recipe.run
    is_artifact = (what / MANIFEST_FILE).is_file()
    artifact = what if is_artifact else _checkpoint(what)
    run = next((each for each in (what, *what.absolute().parents[:2]) if (each / RECORD_FILE).is_file()), None)
    if recipe_file is not None:
        return artifact, read_document(recipe_file, Recipe, overrides), run
    record = read_record(run) if run else None
    if record is None:
        raise InvalidInput(f"{what} lies in no run folder, so its data is not known; add --recipe CONFIG.")
    if overrides:
        raise InvalidInput(f"Overrides ({', '.join(overrides)}) need a recipe to apply to; add --recipe CONFIG.")
    return artifact, record.recipe, run


def _checkpoint(run: Path) -> Path:
    if not run.exists():
        raise InvalidInput(f"{run} is not there; give a run folder, an artifact or a recipe.")
    if not (run / CHECKPOINT / MANIFEST_FILE).is_file():
        raise InvalidInput(f"{run} has no {CHECKPOINT} yet, and is no artifact; run `python -m training train` first.")
    return run / CHECKPOINT


def related(artifact: Path, run: Path | None) -> list[Path]:
    """`artifact` and the run's results with all they were made from, each once, a parent before what was made of it. Of
    a run that a search left without a result: all that the search made."""
    if run is None:
        return [artifact]
    found: dict[str, Path] = {read_manifest(artifact).digest: artifact}
    results = [path.parent for path in sorted(run.glob(f"*/{MANIFEST_FILE}")) if not path.parent.name.startswith(".")]
    for each in results:
        found.setdefault(read_manifest(each).digest, each)
    between = {read_manifest(path.parent).digest: path.parent for path in sorted(run.glob(f"*/*/{MANIFEST_FILE}"))}
    if len(found) == 1:
        return _parents_first(between | found)
    asked = [read_manifest(each).parent for each in found.values()]
    while asked:
        digest = asked.pop()
        if digest in between and digest not in found:
            found[digest] = between[digest]
            asked.append(read_manifest(between[digest]).parent)
    return _parents_first(found)


def _parents_first(found: dict[str, Path]) -> list[Path]:
    ordered: list[Path] = []
    left = dict(found)
    while left:
        ready = [digest for digest, each in left.items() if (read_manifest(each).parent or "") not in left]
        # A circle of parents cannot be made by hashing; were one there, it would be listed.
        ordered += [left.pop(digest) for digest in ready or list(left)]
    return ordered
