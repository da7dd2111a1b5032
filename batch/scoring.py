"""Rows in, predictions and named bad rows out. A pure function of the rows, the job and the artifact."""

from __future__ import annotations

import queue
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batch.job import Job
from records.rows import BadRow, Row
from runtime.contract import Event, Finish, Limits, Pair, PairResult, Sampling, Token
from runtime.errors import InvalidInput, SluiceError
from runtime.generation import GenerationEngine
from runtime.load import load_engine
from runtime.matching import MatchingEngine
from runtime.text import check_text

Prediction = dict[str, Any]
# Column -> pyarrow type name; also the order of CSV columns.
MATCHING_COLUMNS = {"id": "string", "score": "float64", "label": "string", "match": "bool", "truncated": "bool"}
GENERATION_COLUMNS = {"id": "string", "completion": "string", "finish_reason": "string", "tokens": "int64"}


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of a shard's rows; the two parts together are all of them, each in input order."""

    predictions: Sequence[Prediction]
    errors: Sequence[Mapping[str, Any]]


def columns_of(kind: str) -> dict[str, str]:
    """Columns of the predictions of a model of `kind`."""
    return MATCHING_COLUMNS if kind == "matching" else GENERATION_COLUMNS


def row_id(row: Row | BadRow, column: str | None) -> str:
    """The id column's value, else a name made of file and line."""
    value = row.values.get(column) if column and isinstance(row, Row) else None
    return str(value) if value is not None else f"{row.file.rpartition('/')[2]}#{row.line}"


class Scorer:
    """One artifact, loaded once, for any number of shards."""

    def __init__(self, job: Job, directory: Path, threads: int) -> None:
        self._job = job
        # Prompts of a whole shard wait together: the engine's own bounds are for callers who can come back later.
        self._engine = load_engine(directory, threads=threads, limits=Limits(max_items=10**7, max_tokens=10**12))

    def score(self, rows: Sequence[Row | BadRow]) -> Scored:
        """Predictions and errors of one shard."""
        usable: dict[int, Any] = {}
        problems: dict[int, str] = {}
        for place, row in enumerate(rows):
            try:
                usable[place] = self._input(row)
            except InvalidInput as error:
                problems[place] = error.message
        predictions = []
        for place, result in zip(usable, self._predict(list(usable.values())), strict=True):
            if isinstance(result, SluiceError):
                problems[place] = result.message
            else:
                predictions.append({"id": row_id(rows[place], self._job.columns.id), **result})
        return Scored(predictions, [_error(rows[place], problems[place]) for place in sorted(problems)])

    def close(self) -> None:
        """Let go of the engine."""
        self._engine.close()

    def _input(self, row: Row | BadRow) -> Any:
        """The model's input from a row. Raises InvalidInput for one that cannot be used."""
        if isinstance(row, BadRow):
            raise InvalidInput(row.reason)
        columns = self._job.columns
        if columns.id is not None and row.values.get(columns.id) is None:
            raise InvalidInput(f"the id column {columns.id!r} is missing or null")
        check_text(row_id(row, columns.id), columns.id or "id")
        if isinstance(self._engine, GenerationEngine):
            ids = self._engine.encode(_text(row, columns.prompt))
            if len(ids) + self._job.generate.max_tokens > self._engine.context:
                raise InvalidInput(
                    f"{len(ids)} prompt tokens and max_tokens {self._job.generate.max_tokens} exceed the model's "
                    f"context of {self._engine.context}"
                )
            return ids, row
        pair = Pair(_text(row, columns.text_a), _text(row, columns.text_b))
        if not self._job.truncate:
            self._engine.encode([pair], truncate=False)
        return pair

    def _predict(self, inputs: Sequence[Any]) -> list[Prediction | SluiceError]:
        if isinstance(self._engine, MatchingEngine):
            return [self._match(result) for result in self._engine.score(inputs)]
        return self._continue(inputs)

    def _match(self, result: PairResult | SluiceError) -> Prediction | SluiceError:
        if isinstance(result, SluiceError):
            return result
        manifest = self._engine.manifest
        threshold = manifest.decision_threshold if self._job.threshold is None else self._job.threshold
        match = result.score >= threshold
        label = manifest.match_labels[match]
        return {"score": result.score, "label": label, "match": match, "truncated": result.truncated}

    def _continue(self, inputs: Sequence[tuple[list[int], Row]]) -> list[Prediction | SluiceError]:
        """All prompts at once through continuous batching; a row's seed is its own, so company does not matter."""
        assert isinstance(self._engine, GenerationEngine)
        settings = self._job.generate
        streams: list[queue.SimpleQueue[Event]] = []
        for ids, row in inputs:
            sampling = Sampling(**{**settings.model_dump(), "seed": settings.seed + row.line})
            events: queue.SimpleQueue[Event] = queue.SimpleQueue()
            self._engine.submit(ids, sampling, events.put)
            streams.append(events)
        return [_collect(events) for events in streams]


def _collect(events: queue.SimpleQueue[Event]) -> Prediction | SluiceError:
    text = ""
    while True:
        event = events.get()
        if isinstance(event, SluiceError):
            return event
        text += event.text
        if isinstance(event, Finish):
            return {"completion": text, "finish_reason": event.reason, "tokens": event.completion_tokens}
        assert isinstance(event, Token)


def _error(row: Row | BadRow, reason: str) -> Mapping[str, Any]:
    raw = row.raw if isinstance(row, BadRow) else row.values
    return {"file": row.file, "line": row.line, "reason": reason, "raw": raw}


def _text(row: Row, column: str) -> str:
    if column not in row.values:
        raise InvalidInput(f"no column {column!r}; it has {', '.join(map(repr, row.values)) or 'none'}")
    value = row.values[column]
    if not isinstance(value, str):
        raise InvalidInput(f"{column} is not text but {type(value).__name__}")
    check_text(value, column)
    return value
