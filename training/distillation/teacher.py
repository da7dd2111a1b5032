"""The teacher: an artifact that is asked once for each text or pair, and whose answers are kept in files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoModelForSequenceClassification

from models import bi_encoder
from models.registry import register_networks
from runtime.contract import F32, Encoded, Pair, PairResult
from runtime.embedding import EmbeddingEngine
from runtime.encoder import EncoderEngine
from runtime.errors import InvalidInput, SluiceError
from runtime.load import load_engine
from runtime.manifest import Kind, Manifest, read_manifest
from runtime.text import TextEncoder, load_tokenizer

Input = str | Pair
Answer = TypeVar("Answer")
CHUNK = 1024  # inputs between two lines of progress
# A bi-encoder has no logits. Its pair's log-odds are taken to be the cosine's distance from the decision threshold in
# units of this: within what trained bi-encoders' cosines of matches and of others overlap.
COSINE_UNIT = 0.1


class Teacher:
    """The artifact in `directory`. `cache` is a folder for its answers."""

    def __init__(self, directory: Path, cache: Path) -> None:
        """Raises ArtifactRefused: no artifact; InvalidInput: not an encoder."""
        self.directory, self._cache = directory, cache
        self.manifest: Manifest = read_manifest(directory)
        if self.manifest.kind == "generation":
            raise InvalidInput(f"The teacher {directory} is of kind generation; distillation is for encoders.")

    def answers(self, inputs: Sequence[Input], log: Callable[[str], None]) -> F32:
        """Logits (N, C) for pairs, vectors (N, D) for texts; of a bi-encoder that is asked for pairs, its log-odds as
        two logits.

        The same artifact and inputs are answered from a file the second time. Raises InvalidInput: a cross-encoder
        that is asked for texts.
        """
        path = self._cache / f"answers-{self.manifest.digest[:12]}-{_digest(inputs)[:12]}.npy"
        if path.is_file():
            return np.asarray(np.load(path), np.float32)
        engine = cast(EncoderEngine, load_engine(self.directory))
        try:
            found: list[F32] = []
            for start in range(0, len(inputs), CHUNK):
                found.append(_ask(engine, inputs[start : start + CHUNK]))
                log(f"teacher: {min(start + CHUNK, len(inputs))} of {len(inputs)} answers")
        finally:
            engine.close()
        answers = np.concatenate(found)
        self._cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npy")
        np.save(partial, answers)
        partial.replace(path)
        return answers

    def network(self) -> nn.Module:
        """The network itself, frozen and in evaluation mode. Raises InvalidInput: the artifact is a graph."""
        if self.manifest.format != "torch":
            raise InvalidInput(
                f"The teacher {self.directory} is of format {self.manifest.format}: hidden states, attention and "
                "values need one of format torch, a checkpoint. Give such a teacher, or set all three to 0."
            )
        if self.manifest.kind == "embedding":
            network: nn.Module = bi_encoder.load(self.directory)
        else:
            register_networks()
            network = AutoModelForSequenceClassification.from_pretrained(self.directory)
        return network.eval().requires_grad_(False)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""
        return load_tokenizer(self.directory / self.manifest.tokenizer)

    def encode(self, inputs: Sequence[Input]) -> list[Encoded]:
        """Texts or pairs as the teacher itself reads them."""
        return TextEncoder(self.tokenizer, self.manifest.max_tokens, self.manifest.pad_token_id).encode(inputs)


def check_kinds(teacher: Manifest, student: Kind, labels: Sequence[str]) -> None:
    """Raises InvalidInput where the answers of one kind are no lesson for the other; `labels` are the student's."""
    if teacher.kind == student == "matching" and tuple(teacher.labels) != tuple(labels):
        raise InvalidInput(
            f"The teacher's labels are {', '.join(teacher.labels)}, the student's {', '.join(labels)}: they must be "
            "the same, in the same order. Train the teacher on this data, or set data.labels."
        )
    if teacher.kind == "embedding" and student == "matching" and len(labels) != 2:
        raise InvalidInput(f"A bi-encoder can teach match or no match, and the student has {len(labels)} labels.")
    if teacher.kind == "matching" and student == "embedding":
        raise InvalidInput(
            "The teacher is a pair model and the student a bi-encoder: it has no vectors to teach. Take a bi-encoder "
            "as teacher, or a pair model as student."
        )


def _ask(engine: EncoderEngine, inputs: Sequence[Input]) -> F32:
    if isinstance(inputs[0], str):
        if not isinstance(engine, EmbeddingEngine):
            raise InvalidInput("A pair model cannot be asked for single texts.")
        vectors = [_answer(each).vector for each in engine.embed(cast(Sequence[str], inputs))]
        return np.asarray(np.stack(vectors), np.float32)
    results = [_answer(each) for each in engine.score(cast(Sequence[Pair], inputs))]
    if isinstance(engine, EmbeddingEngine):
        odds = [_log_odds(each, engine.manifest.decision_threshold) for each in results]
        return np.asarray([[0.0, each] for each in odds], np.float32)
    return np.asarray(np.stack([each.logits for each in results if each.logits is not None]), np.float32)


def _log_odds(result: PairResult, threshold: float) -> float:
    return 2 * (result.score - threshold) / COSINE_UNIT  # a score is (1 + cosine) / 2


def _answer(result: Answer | SluiceError) -> Answer:
    if isinstance(result, SluiceError):
        raise result
    return result


def _digest(inputs: Sequence[Input]) -> str:
    digest = hashlib.sha256()
    for each in inputs:
        text = each if isinstance(each, str) else [each.text_a, each.text_b]
        digest.update(json.dumps(text).encode() + b"\n")
    return digest.hexdigest()
