"""The prompts: passages of the bundled text of an exact number of tokens, as text and as ids, no two alike."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from runtime.text import load_tokenizer

TEXT = Path("training/samples/shakespeare/train.txt")
FILLER = "a"  # one token


@dataclass(frozen=True, slots=True)
class Prompt:
    """`ids` are what every tokenizer here makes of `text`."""

    text: str
    ids: tuple[int, ...]

    def __add__(self, other: Prompt) -> Prompt:
        return Prompt(self.text + other.text, self.ids + other.ids)


class Prompts:
    """Passages in their order, each used once: a cache of prefixes finds nothing that it was not meant to find.

    Every word has its space before it, so a byte-level tokenizer cuts each for itself and lengths add up.
    """

    def __init__(self, tokenizer: Path, text: Path = TEXT) -> None:
        self._tokenizer: Tokenizer = load_tokenizer(tokenizer)
        self._words = itertools.cycle(text.read_text(encoding="utf-8").split())
        self._ids: dict[str, list[int]] = {}

    def next(self, tokens: int) -> Prompt:
        """The next passage of exactly so many tokens; FILLER replaces a word too long for the rest."""
        words: list[str] = []
        ids: list[int] = []
        while len(ids) < tokens:
            word = next(self._words)
            if len(ids) + len(self._cut(word)) > tokens:
                word = FILLER
            words.append(word)
            ids += self._cut(word)
        return Prompt("".join(f" {word}" for word in words), tuple(ids))

    def many(self, count: int, tokens: int) -> list[Prompt]:
        """So many passages of so many tokens each."""
        return [self.next(tokens) for _ in range(count)]

    def _cut(self, word: str) -> list[int]:
        if word not in self._ids:
            self._ids[word] = self._tokenizer.encode(f" {word}").ids
        return self._ids[word]
