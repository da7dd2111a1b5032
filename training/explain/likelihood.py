"""What each token of a text costs a language model, in nats, with the context that an evaluation gives it.

Windows of the model's context advance by half of it, as in `training.evaluate`: a token's loss is that in the window
where it has the most before it. All losses of all windows tell what a place in the context is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runtime.generation import GenerationEngine
from training.data.examples import Example
from training.example_quality import example_ids

F64 = npt.NDArray[np.float64]
MOST_TOKENS = 20_000  # of a split
RESAMPLES = 1000
BLOCK = 64  # tokens that are resampled together: neighbours are not independent


@dataclass(frozen=True, slots=True)
class DocumentLosses:
    """One document. `ids`, `losses`: (T,) of the tokens that were predicted; `texts`: each token as it reads;
    `size_bytes`: of the document's own text, without marks of its end."""

    source: str
    ids: npt.NDArray[np.int64]
    losses: F64
    texts: Sequence[str]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class TextLosses:
    """All documents. `by_position`: (context - 1,) mean loss of tokens with 1, 2, … tokens before them in the window,
    NaN where there was none; `windows`: (context - 1,) how many there were."""

    documents: Sequence[DocumentLosses]
    by_position: F64
    windows: npt.NDArray[np.int64]

    @property
    def losses(self) -> F64:
        """Of all documents, one after the other."""
        return np.concatenate([each.losses for each in self.documents])


def text_losses(engine: GenerationEngine, texts: Sequence[tuple[str, str]]) -> TextLosses:
    """Losses of documents (source, text), of each as many tokens as its share of MOST_TOKENS."""
    size = engine.context
    encoded = [_with_begin(engine, engine.encode(text)) for _, text in texts]
    share = min(1.0, MOST_TOKENS / max(sum(map(len, encoded)), 1))
    sums, counts = np.zeros(size - 1), np.zeros(size - 1, np.int64)
    documents = []
    for (source, _), whole in zip(texts, encoded, strict=True):
        ids = whole[: max(2, int(share * len(whole)))]
        if len(ids) < 2:
            continue
        losses: list[float] = []
        for start in range(0, max(len(ids) - size, 0) + size // 2, max(size // 2, 1)):
            window = ids[start : start + size]
            if start + len(window) <= len(losses) + 1:
                break
            found = -np.asarray(engine.log_probs(window))
            sums[: len(found)] += found
            counts[: len(found)] += 1
            losses += found[len(losses) - start :].tolist()
        predicted = np.asarray(ids[1:], np.int64)
        tokens = [_written(engine, token) for token in ids[1:]]
        size_bytes = len("".join(tokens).encode())
        documents.append(DocumentLosses(source, predicted, np.asarray(losses), tokens, size_bytes))
    with np.errstate(invalid="ignore"):
        return TextLosses(documents, sums / np.where(counts, counts, np.nan), counts)


def example_losses(engine: GenerationEngine, rows: Sequence[Example]) -> TextLosses:
    """Losses of targets given their sources, at most MOST_TOKENS; the rows of a file are one document. The start of a
    text counts as a token before its first."""
    sums, counts = np.zeros(engine.context), np.zeros(engine.context, np.int64)
    prompts, texts = example_ids(engine, [row.source for row in rows], [row.target for row in rows])
    kept = int(np.searchsorted(np.cumsum([len(text) for text in texts]), MOST_TOKENS)) + 1
    files: dict[str, tuple[list[int], list[float], list[int]]] = {}
    found = engine.text_log_probs(prompts[:kept], texts[:kept])
    for row, text, log_probs in zip(rows, texts, found, strict=False):
        losses = -np.asarray(log_probs)
        sums[: len(losses)] += losses
        counts[: len(losses)] += 1
        ids, all_losses, sizes = files.setdefault(row.where.rpartition(":")[0], ([], [], []))
        ids += text
        all_losses += losses.tolist()
        sizes.append(len(row.target.encode()))
    documents = [
        DocumentLosses(
            source=file,
            ids=np.asarray(ids, np.int64),
            losses=np.asarray(losses),
            texts=[_written(engine, token) for token in ids],
            size_bytes=sum(sizes),
        )
        for file, (ids, losses, sizes) in files.items()
    ]
    with np.errstate(invalid="ignore"):
        return TextLosses(documents, sums / np.where(counts, counts, np.nan), counts)


def _written(engine: GenerationEngine, token: int) -> str:
    text: str = engine.tokenizer.decode([token], skip_special_tokens=False)
    return text


def perplexity(losses: F64, seed: int) -> tuple[float, float, float]:
    """exp of the mean loss, and its 95 % interval over resampled blocks of BLOCK neighbours."""
    value, drawn = _resampled(losses, seed)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(np.exp(value)), float(np.exp(low)), float(np.exp(high))


def perplexity_ratio(losses: F64, others: F64, seed: int) -> tuple[float, float, float]:
    """Perplexity over that of `others`, on the same tokens, with its interval (paired)."""
    return perplexity(losses - others, seed)


def _resampled(values: F64, seed: int) -> tuple[float, F64]:
    blocks = [values[start : start + BLOCK] for start in range(0, len(values), BLOCK)]
    sums, sizes = np.asarray([block.sum() for block in blocks]), np.asarray([len(block) for block in blocks])
    drawn = np.random.default_rng(seed).integers(0, len(blocks), (RESAMPLES, len(blocks)))
    return float(values.mean()), sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)


def _with_begin(engine: GenerationEngine, ids: list[int]) -> list[int]:
    shape = engine.manifest.causal
    assert shape is not None  # every generation artifact has one
    begin = next((token for token in (shape.bos_token_id, *shape.eos_token_ids) if token is not None), None)
    return ids if begin is None or ids[:1] == [begin] else [begin, *ids]
