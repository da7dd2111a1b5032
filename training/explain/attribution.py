"""Which words a score rests on, by occlusion: each word is taken out, and the score falls by its weight (Li et al.,
arXiv:1612.08220). It asks for nothing but scores, so it holds for every artifact that the runtime loads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtime.contract import Pair
from training.explain.contract import Findings, Score
from training.explain.segments import Span, spans

MOST_WORDS = 48  # of a text; what lies behind has no weight


class Piece(Findings):
    """A stretch of a text. `weight`: how much lower the score is without it."""

    text: str
    weight: float


class Attribution(Findings):
    """Both texts of a pair, cut into pieces that make them up."""

    a: tuple[Piece, ...]
    b: tuple[Piece, ...]

    @property
    def largest(self) -> float:
        """The largest weight, whatever its sign."""
        return max((abs(piece.weight) for piece in (*self.a, *self.b)), default=0.0)


def occlusion(pairs: Sequence[Pair], score: Score) -> list[Attribution]:
    """The weight of each word of each pair, for one call of `score`."""
    places = [(list(spans(pair.text_a))[:MOST_WORDS], list(spans(pair.text_b))[:MOST_WORDS]) for pair in pairs]
    asked: list[Pair] = []
    for pair, (in_a, in_b) in zip(pairs, places, strict=True):
        asked.append(pair)
        asked += [Pair(_without(pair.text_a, span), pair.text_b) for span in in_a]
        asked += [Pair(pair.text_a, _without(pair.text_b, span)) for span in in_b]
    scores = score(asked)
    found = []
    at = 0
    for pair, (in_a, in_b) in zip(pairs, places, strict=True):
        weights = np.asarray(scores[at] - scores[at + 1 : at + 1 + len(in_a) + len(in_b)], float)
        at += 1 + len(in_a) + len(in_b)
        found.append(
            Attribution(
                a=_pieces(pair.text_a, in_a, weights[: len(in_a)].tolist()),
                b=_pieces(pair.text_b, in_b, weights[len(in_a) :].tolist()),
            )
        )
    return found


def _without(text: str, span: Span) -> str:
    """Without the word, and without one of the spaces around it."""
    before, after = text[: span[0]], text[span[1] :]
    if before.endswith(" ") or not before:
        after = after.removeprefix(" ")
    return before + after


def _pieces(text: str, places: Sequence[Span], weights: Sequence[float]) -> tuple[Piece, ...]:
    pieces = []
    at = 0
    for (begin, end), weight in zip(places, weights, strict=True):
        if begin > at:
            pieces.append(Piece(text=text[at:begin], weight=0.0))
        pieces.append(Piece(text=text[begin:end], weight=round(weight, 5)))
        at = end
    if at < len(text):
        pieces.append(Piece(text=text[at:], weight=0.0))
    return tuple(pieces)
