"""Log-probabilities in OpenAI's two shapes: lists side by side for completions, an object a token for chats."""

from __future__ import annotations

import codecs
import math
from collections.abc import Sequence
from typing import Any

from runtime.contract import Likeliest, Token
from runtime.spelling import Speller

FIELDS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
# JSON has no infinity: a token that could not come has this.
LEAST = -9999.0


def finite(logprob: float) -> float:
    """A log-probability that JSON can carry."""
    return logprob if math.isfinite(logprob) else LEAST


def written(spelling: bytes) -> str:
    """A token's text; one that is a part of a character shows its bytes, as OpenAI writes them."""
    try:
        return spelling.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelling)


class CompletionLogprobs:
    """Of one choice, token by token; knows where in the choice's text it is."""

    def __init__(self, speller: Speller) -> None:
        self._speller = speller
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def prompt(
        self, ids: Sequence[int], text: str, logprobs: Sequence[float | None], likeliest: Sequence[Likeliest]
    ) -> dict[str, list[Any]]:
        """Of an echoed prompt, whose text is `text`."""
        entry: dict[str, list[Any]] = {name: [] for name in FIELDS}
        for each in zip(ids, logprobs, likeliest, strict=True):
            self._add(entry, *each)
        # Some tokenizers put a space before a text that is none of it.
        extra = self._offset - len(text)
        entry["text_offset"] = [max(0, offset - extra) for offset in entry["text_offset"]]
        self._offset = len(text)
        return entry

    def token(self, token: Token) -> dict[str, list[Any]]:
        """Of one generated token."""
        entry: dict[str, list[Any]] = {name: [] for name in FIELDS}
        self._add(entry, token.id, token.logprob, token.likeliest)
        return entry

    def _add(self, entry: dict[str, list[Any]], id: int, logprob: float | None, likeliest: Likeliest) -> None:
        spelling = self._speller.spell(id)
        text = written(spelling)
        top: dict[str, float] = {}
        for other, value in likeliest:  # likeliest first: of two with one spelling it stays
            top.setdefault(written(self._speller.spell(other)), finite(value))
        if logprob is not None:
            top.setdefault(text, finite(logprob))
        entry["tokens"].append(text)
        entry["token_logprobs"].append(None if logprob is None else finite(logprob))
        entry["top_logprobs"].append(None if logprob is None else top)
        entry["text_offset"].append(self._offset)
        if id not in self._speller.silent:
            self._offset += len(self._decoder.decode(spelling))


def chat_logprob(speller: Speller, token: Token) -> dict[str, Any]:
    """One token of an answer."""
    return {
        **_spelt(speller, token.id, token.logprob or 0.0),
        "top_logprobs": [_spelt(speller, id, logprob) for id, logprob in token.likeliest],
    }


def _spelt(speller: Speller, id: int, logprob: float) -> dict[str, Any]:
    spelling = speller.spell(id)
    return {"token": spelling.decode(errors="replace"), "logprob": finite(logprob), "bytes": list(spelling)}
