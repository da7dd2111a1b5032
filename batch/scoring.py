"""A shard in, predictions and named bad rows out. A pure function of the rows, the job and the artifact."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from batch.job import Job
from batch.plan import PlannedModel
from batch.predictions import Prediction
from batch.reading import Item, Reject, Shard, beginning
from runtime.contract import Finish, Pair, PairResult, PromptScores, Sampling, TextEngine
from runtime.encoder import EncoderEngine
from runtime.errors import ArtifactRefused, InvalidInput, SluiceError
from runtime.load import load_engine
from runtime.manifest import read_manifest

SLOTS = 8


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of a shard's rows; the two parts together are all of them, each in input order."""

    predictions: Sequence[Prediction]
    rejects: Sequence[Reject]


class Scorer:
    """One artifact, loaded once, for any number of shards.

    Raises ArtifactRefused for one that cannot be loaded, or is no longer the one that was planned with.
    """

    def __init__(self, job: Job, model: PlannedModel, directory: Path) -> None:
        self._job = job
        self._model = model
        # Torch's matrix product of one row is not bit by bit that of several; the other formats' is.
        slots = 1 if read_manifest(directory).format == "torch" else SLOTS
        # One thread: how many a machine has must not show in the results. Workers fill the cores.
        self._engine = load_engine(directory, threads=1, slots=slots)
        if self._engine.manifest.digest != model.digest:
            raise ArtifactRefused(
                f"{directory} has changed since the job was planned. Restore it, or use a new output."
            )

    def score(self, shard: Shard) -> Scored:
        """Predictions and bad rows of one shard."""
        items = [row for row in shard.rows if isinstance(row, Item)]
        engine = self._engine
        if isinstance(engine, EncoderEngine):
            outcomes = self._score(engine, items)
        else:
            outcomes = self._continue(engine, items, shard.short)
        rejects = [row for row in shard.rows if isinstance(row, Reject)]
        rejects += [
            Reject(item.line, outcome.message.rstrip("."), beginning(item.texts), item.id)
            for item, outcome in zip(items, outcomes, strict=True)
            if isinstance(outcome, SluiceError)
        ]
        predictions = [
            {"id": item.id, **outcome}
            for item, outcome in zip(items, outcomes, strict=True)
            if not isinstance(outcome, SluiceError)
        ]
        return Scored(predictions, sorted(rejects, key=lambda reject: reject.line))

    def close(self) -> None:
        """Let go of the engine."""
        self._engine.close()

    def _score(self, engine: EncoderEngine, items: Sequence[Item]) -> list[Prediction | SluiceError]:
        pairs = [Pair(*item.texts) for item in items]
        refused: dict[int, SluiceError] = {}
        if not self._job.truncate:
            refused = {place: error for place, pair in enumerate(pairs) if (error := _refusal(engine, pair))}
        kept = [pair for place, pair in enumerate(pairs) if place not in refused]
        scored = iter(engine.score(kept, truncate=self._job.truncate))
        results = [refused[place] if place in refused else next(scored) for place in range(len(pairs))]
        return [result if isinstance(result, SluiceError) else self._prediction(result) for result in results]

    def _prediction(self, result: PairResult) -> Prediction:
        assert self._model.threshold is not None
        assert self._model.labels is not None
        match = result.score >= self._model.threshold
        label = self._model.labels[match]
        return {"score": result.score, "label": label, "match": match, "truncated": result.truncated}

    def _continue(self, engine: TextEngine, items: Sequence[Item], short: str) -> list[Prediction | SluiceError]:
        """Prompts through continuous batching; a row's seed is its own, so its company does not matter."""

        def run(item: Item) -> Prediction | SluiceError:
            settings = self._job.generate.model_dump() | {"seed": row_seed(self._job.generate.seed, short, item.line)}
            text = ""
            try:
                for event in engine.generate(item.texts[0], Sampling(**settings)):
                    assert not isinstance(event, PromptScores)
                    text += event.text
                    if isinstance(event, Finish):
                        return {"completion": text, "finish_reason": event.reason, "tokens": event.completion_tokens}
            except SluiceError as error:
                return error
            raise AssertionError("a stream ends with Finish or an error")

        with ThreadPoolExecutor(2 * engine.slots, thread_name_prefix="prompt") as pool:
            return list(pool.map(run, items))


def row_seed(seed: int, short: str, line: int) -> int:
    """The seed of one row: depends on the job's seed and the row's place, and on nothing that runs beside it."""
    digest = hashlib.sha256(f"{seed}\n{short}\n{line}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _refusal(engine: EncoderEngine, pair: Pair) -> SluiceError | None:
    try:
        engine.prepare([pair], truncate=False)
    except InvalidInput as error:
        # The engine counts places in its list; here the row has a name of its own.
        return InvalidInput(error.message.replace("pairs[0].", "").replace("pairs[0]", "the pair"))
    return None
