"""Seeded texts: pairs to match, queries with documents to rank, prompts to complete.

The same seed, kind and user give the same texts in the same order, on every machine; no user sends the same pair,
query or prompt twice, so a server's caches do not flatter the figures. The texts are made to vary in length and content
like real traffic, not to be a quality test: they carry no labels.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import TypeVar

from loadtests import words

T = TypeVar("T")

# Below this many words there are too few different texts to never repeat one.
FEWEST_WORDS = 12
# Share of the texts, and the bounds of their length in words: mostly a line, some paragraphs, a few long complaints.
LENGTHS: tuple[tuple[float, int, int], ...] = ((0.55, 3, 14), (0.33, 15, 40), (0.12, 41, 160))


class TextSource:
    """The endless text sequence of one user; no text is longer than `max_words` words.

    Raises ValueError when `max_words` is below FEWEST_WORDS.
    """

    def __init__(self, seed: int, kind: str, user: int, max_words: int) -> None:
        if max_words < FEWEST_WORDS:
            raise ValueError(f"max_words is {max_words}; it must be at least {FEWEST_WORDS} for texts not to repeat")
        # random hashes a string seed with SHA-512, so the sequence does not depend on PYTHONHASHSEED.
        self._random = random.Random(f"{seed}/{kind}/{user}")
        self._max_words = max_words
        self._sent: set[bytes] = set()

    def pair(self) -> tuple[str, str]:
        """Return two texts: about one subject in other words, about one subject in another state, or unrelated."""
        return self._unsent(self._compose_pair)

    def query(self, documents: int) -> tuple[str, tuple[str, ...]]:
        """Return a query and that many documents, the first about the query's subject."""
        return self._unsent(lambda: self._compose_query(documents))

    def prompt(self) -> str:
        """Return the beginning of a story."""
        return self._unsent(self._compose_prompt)

    def number(self, low: int, high: int) -> int:
        """Return a seeded whole number between two bounds, both included."""
        return self._random.randint(low, high)

    def _unsent(self, compose: Callable[[], T]) -> T:
        while True:
            value = compose()
            fingerprint = hashlib.blake2b(repr(value).encode(), digest_size=8).digest()
            if fingerprint not in self._sent:
                self._sent.add(fingerprint)
                return value

    def _compose_pair(self) -> tuple[str, str]:
        pick = self._random.choice
        subject, state = pick(words.SUBJECTS), pick(words.STATES)
        relation = self._random.random()
        if relation < 0.4:
            return self._text(subject, state), self._text(subject, state)
        if relation < 0.8:
            return self._text(subject, state), self._text(subject, pick(words.STATES))
        return self._text(subject, state), self._text(pick(words.SUBJECTS), pick(words.STATES))

    def _compose_query(self, documents: int) -> tuple[str, tuple[str, ...]]:
        pick = self._random.choice
        subject, state = pick(words.SUBJECTS), pick(words.STATES)
        others = [self._text(pick(words.SUBJECTS), pick(words.STATES)) for _ in range(documents - 1)]
        return self._text(subject, state), (self._text(subject, state), *others)

    def _compose_prompt(self) -> str:
        pick = self._random.choice
        length = self._random.randint(8, self._max_words)
        parts = [f"{pick(words.STORY_OPENINGS)}, in {pick(words.PLACES)}, in the year {self.number(1000, 2100)},"]
        parts.append(f"{pick(words.HEROES)} {pick(words.DEEDS)}")
        while sum(map(len, map(str.split, parts))) < length:
            parts.append(f"{pick(words.LINKS)} {pick(words.HEROES)} {pick(words.DEEDS)}")
        return " ".join(" ".join(parts).split()[:length])

    def _text(self, subject: str, state: str) -> str:
        """Compose sentences about a subject up to a drawn length; one text in twenty is in another language."""
        if self._random.random() < 0.05:
            return f"{self._random.choice(words.ABROAD)} ({self._amount()}, {self._random.choice(words.PLACES)})"
        length = min(self._length(), self._max_words)
        sentences = [self._random.choice(words.OPENERS) + self._sentence(subject, state)]
        while sum(map(len, map(str.split, sentences))) < length:
            sentences.append(self._aside() if self._random.random() < 0.5 else self._sentence(subject, state))
        return " ".join(" ".join(sentences).split()[:length])

    def _length(self) -> int:
        shares = [share for share, _, _ in LENGTHS]
        _, low, high = self._random.choices(LENGTHS, weights=shares)[0]
        return self._random.randint(low, high)

    def _sentence(self, subject: str, state: str) -> str:
        pick = self._random.choice
        return pick(
            (
                f"My {subject} is {state} {pick(words.TIMES)}.",
                f"How do I {pick(words.VERBS)} a {subject} from {pick(words.PLACES)}?",
                f"Why is the {subject} over {self._amount()} {state}?",
                f"I tried to {pick(words.VERBS)} the {subject} {pick(words.TIMES)} and it is {state}.",
                f"{pick(words.PEOPLE)} sent {self._amount()} {pick(words.TIMES)} but the {subject} is {state}.",
                f"Can I {pick(words.VERBS)} my {subject} after it was {state}?",
                f"The {subject} for {pick(words.PEOPLE)} in {pick(words.PLACES)} came back {state}.",
            )
        )

    def _aside(self) -> str:
        pick = self._random.choice
        return pick(
            (
                pick(words.CLOSINGS),
                f"It was for {pick(words.COLOURS)} {pick(words.MATERIALS)} {pick(words.PRODUCTS)}.",
                f"The amount was {self._amount()}, order no. {self.number(10_000, 9_999_999)}.",
                f"I was in {pick(words.PLACES)} {pick(words.TIMES)}.",
                f"{pick(words.PEOPLE)} told me to {pick(words.VERBS)} it.",
            )
        )

    def _amount(self) -> str:
        return f"{self._random.choice(words.CURRENCIES)}{self.number(1, 4999)}.{self.number(0, 99):02d}"
