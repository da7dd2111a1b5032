"""Where a language model is good and bad: perplexity by position, source and sort of token; its worst passages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import PurePath

import numpy as np

from training.bootstrap import Range
from training.explain.contract import F64, Bools, Findings, Subject
from training.explain.likelihood import DocumentLosses, TextLosses, perplexity
from training.explain.show import BLUE, bars, coloured
from training.explain.words import Words
from training.pages.page import Section, figure

PARTS = 10  # of a document that is alone
PASSAGE = 40  # tokens
SHOWN = 8
RARE = 10  # times in train, at most
TRAIN_CHARACTERS = 2_000_000  # counted for that
LEAST = 20  # tokens of a sort


class Group(Findings):
    """Tokens with something in common, and their perplexity."""

    name: str
    tokens: int
    perplexity: Range


class Passage(Findings):
    """Neighbouring tokens and what each costs, in nats (a change of it, where two models are compared)."""

    source: str
    mean: float
    tokens: tuple[tuple[str, float], ...]


class LanguageFindings(Findings):
    """On one split. `by_position`: tokens before in the window, perplexity."""

    tokens: int
    perplexity: Range
    bits_per_byte: float
    by_position: tuple[tuple[int, float], ...]
    by_source: tuple[Group, ...]
    by_sort: tuple[Group, ...]
    worst: tuple[Passage, ...]


def find(subject: Subject) -> LanguageFindings:
    """Perplexity of the explained artifact on the subject's split."""
    found = subject.losses(subject.artifact, subject.split)
    losses = found.losses
    size_bytes = sum(each.size_bytes for each in found.documents)
    return LanguageFindings(
        tokens=len(losses),
        perplexity=as_range(perplexity(losses, subject.seed)),
        bits_per_byte=round(float(losses.sum() / np.log(2) / max(size_bytes, 1)), 5),
        by_position=by_position(found),
        by_source=tuple(_group(name, part, subject.seed) for name, part in sources(found.documents)),
        by_sort=tuple(
            _group(name, losses[held], subject.seed)
            for name, held in sorts(found.documents, _train_counts(subject)).items()
            if held.sum() >= LEAST
        ),
        worst=passages(found.documents, [each.losses for each in found.documents]),
    )


def by_position(found: TextLosses) -> tuple[tuple[int, float], ...]:
    """Perplexity by tokens before, averaged over ever wider bins: near the beginning each token counts."""
    edges = np.unique(np.round(np.geomspace(1, len(found.by_position) + 1, 24)).astype(int))
    points = []
    for low, high in pairwise(edges.tolist()):
        counts, means = found.windows[low - 1 : high - 1], found.by_position[low - 1 : high - 1]
        if counts.sum():
            mean = float(np.nansum(means * counts) / counts.sum())
            points.append(((low + high - 1) // 2, round(float(np.exp(mean)), 4)))
    return tuple(points)


def sources(documents: Sequence[DocumentLosses]) -> Iterator[tuple[str, F64]]:
    """Losses by document; a document that is alone, by its tenths."""
    if len(documents) > 1:
        yield from ((each.source, each.losses) for each in documents)
        return
    parts = np.array_split(documents[0].losses, PARTS)
    for place, part in enumerate(parts):
        if len(part):
            name = PurePath(documents[0].source).name
            yield f"{name} {place * 100 // PARTS}–{(place + 1) * 100 // PARTS} %", part


def sorts(documents: Sequence[DocumentLosses], counts: Mapping[int, int]) -> dict[str, Bools]:
    """Sort of token -> which tokens (T,) of all documents are of it; a token may be of several."""
    texts = [text for each in documents for text in each.texts]
    ids = [token for each in documents for token in each.ids.tolist()]
    return {
        "digits": np.asarray([any(map(str.isdigit, text)) for text in texts]),
        "punctuation": np.asarray([bool(re.fullmatch(r"\s*[^\w\s]+\s*", text)) for text in texts]),
        "line break": np.asarray(["\n" in text for text in texts]),
        "begins with a capital": np.asarray([text.strip()[:1].isupper() for text in texts]),
        "begins a word": np.asarray([text[:1].isspace() and text.strip()[:1].isalpha() for text in texts]),
        "goes on within a word": np.asarray([text[:1].isalpha() for text in texts]),
        "rare in train": np.asarray([counts.get(token, 0) <= RARE for token in ids]),
    }


def passages(documents: Sequence[DocumentLosses], values: Sequence[F64]) -> tuple[Passage, ...]:
    """The stretches of PASSAGE tokens with the highest mean of `values`, highest first; none where that is nothing."""
    found = []
    for document, each in zip(documents, values, strict=True):
        for start in range(0, len(each), PASSAGE):
            part = each[start : start + PASSAGE]
            if len(part) >= PASSAGE // 2:
                found.append((float(part.mean()), document, start, part))
    found.sort(key=lambda passage: -passage[0])
    return tuple(
        Passage(
            source=document.source,
            mean=round(mean, 4),
            tokens=tuple(
                (text, round(float(value), 3))
                for text, value in zip(document.texts[start : start + PASSAGE], part, strict=True)
            ),
        )
        for mean, document, start, part in found[:SHOWN]
        if round(mean, 4) > 0
    )


def _train_counts(subject: Subject) -> Counter[int]:
    counts: Counter[int] = Counter()
    left = TRAIN_CHARACTERS
    for text in subject.splits.texts("train"):
        counts.update(subject.encode(text[:left]))
        left -= len(text)
        if left <= 0:
            break
    return counts


def _group(name: str, losses: F64, seed: int) -> Group:
    return Group(name=name, tokens=len(losses), perplexity=as_range(perplexity(losses, seed)))


def as_range(found: tuple[float, float, float]) -> Range:
    """Value, low and high, rounded."""
    value, low, high = (round(each, 5) for each in found)
    return Range(value=value, low=low, high=high)


# ---------------------------------------------------------------- the page


def show(found: LanguageFindings, section: Section, word: Words) -> None:
    """The figure as a whole, then by position, source and sort, then passages."""
    section.text(
        word(
            "Perplexity {perplexity} a token on {tokens} tokens; {bits} bits a byte. Intervals: blocks of 64 tokens "
            "resampled.",
            perplexity=found.perplexity,
            tokens=f"{found.tokens:,}",
            bits=f"{found.bits_per_byte:.3f}",
        )
    )
    drawn, (axis,) = figure(6.4, 2.9)
    axis.plot(*zip(*found.by_position, strict=True), "o-", color=BLUE, markersize=3)
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.set_xlabel(word("tokens before it in the window"), fontsize=9)
    axis.set_ylabel(word("perplexity"), fontsize=9)
    section.figure(drawn, word("By position: what the context is worth."))
    for title, groups in (("By source", found.by_source), ("By sort of token", found.by_sort)):
        shown = sorted(groups, key=lambda each: -each.perplexity.value)[:30]
        names = [word.known(each.name) for each in shown]
        section.figure(
            bars(
                [(name, each.perplexity) for name, each in zip(names, shown, strict=True)],
                word("perplexity"),
                found.perplexity.value,
            ),
            word(title),
        )
        section.table(
            [word(each) for each in ("group", "tokens", "perplexity", "95 % from", "to")],
            [
                [name, each.tokens, each.perplexity.value, each.perplexity.low, each.perplexity.high]
                for name, each in zip(names, shown, strict=True)
            ],
            caption=word(title),
            folded=True,
        )
    passage_table(word("Worst passages; the darker a token, the less it was expected"), found.worst, section, word)


def passage_table(title: str, found: Sequence[Passage], section: Section, word: Words) -> None:
    """Passages with their tokens coloured: orange costs, blue saves."""
    if not found:
        return
    largest = max((abs(value) for each in found for _, value in each.tokens), default=1.0)
    section.table(
        [word(each) for each in ("mean, nats", "passage", "source")],
        [
            [each.mean, coloured([(text, -value) for text, value in each.tokens], largest), each.source]
            for each in found
        ],
        caption=title,
    )
