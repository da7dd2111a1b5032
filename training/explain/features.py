"""What may make a pair hard: properties of its two texts, each with a value a row. A slice is the rows of one value.

Values are words of a small vocabulary, ranges such as "≤ 21", or names out of the data; numbers are cut into thirds.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from training.data.pairs import LabelledPair
from training.explain.contract import ScoredRows
from training.explain.segments import fields, script, terms, words

Values = Sequence[str | None]  # one a row; None: the property does not apply
NEGATIONS = frozenset(
    ("not", "no", "never", "none", "nobody", "nothing", "nowhere", "neither", "nor", "without", "cannot", "unable")
)  # and what ends in n't
CHINESE_NEGATIONS = frozenset("不没無无未非否别勿莫")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_TITLE = re.compile(r"《([^》]+)》")
# A capital that begins no sentence, or an acronym anywhere.
_NAME = re.compile(r"(?<=[^.!?\s…]\s)[A-Z][\w'’-]+|\b[A-Z]{2,}\b")


def features(scored: ScoredRows, train: Sequence[LabelledPair]) -> dict[str, Values]:
    """Property -> its value in each row. `train` says which words the model could have learned."""
    rows = scored.rows
    sides = [(row.text_a, row.text_b) for row in rows]
    found: dict[str, Values] = {
        "tokens": thirds(scored.tokens.tolist()),
        "length ratio": thirds([_length_ratio(*texts) for texts in sides]),
        "overlap": thirds([overlap(*texts) for texts in sides]),
        "negation": [_in_sides(has_negation, *texts) for texts in sides],
        "numbers": [_alike(set(_NUMBER.findall(a)), set(_NUMBER.findall(b))) for a, b in sides],
        "entities": [_alike(names(a), names(b)) for a, b in sides],
        "unseen words": _unseen(rows, train),
        "truncated": ["yes" if count else "no" for count in scored.dropped_tokens],
        "script": [script(a + b) or "none" for a, b in sides],
        **_fields(rows),
    }
    # What all rows share tells nothing.
    return {name: values for name, values in found.items() if len({value for value in values if value}) > 1}


def term_rows(rows: Sequence[LabelledPair], least: int, most: int) -> dict[str, np.ndarray]:
    """Frequent terms -> the rows (N,) that hold them, in either text; at most `most` terms, each in `least` rows."""
    held = [terms(row.text_a) | terms(row.text_b) for row in rows]
    counts = Counter(term for each in held for term in each)
    usual = [term for term, count in counts.most_common() if least <= count <= len(rows) / 2][:most]
    return {term: np.asarray([term in each for each in held]) for term in usual}


def overlap(a: str, b: str) -> float:
    """Words in common over words in all (Jaccard); characters in Chinese."""
    one, other = set(words(a)), set(words(b))
    return len(one & other) / max(len(one | other), 1)


def has_negation(text: str) -> bool:
    """Whether it denies something, by its words."""
    return any(word in NEGATIONS or word in CHINESE_NEGATIONS or word.endswith("n't") for word in words(text))


def names(text: str) -> set[str]:
    """Names in it, by their looks: capitals within a sentence, acronyms, 《titles》. Of a record: its first field."""
    record = fields(text)
    if record:
        return {next(iter(record.values())).lower()} - {""}
    return set(_NAME.findall(text)) - {"I", "I'm", "I've"} | set(_TITLE.findall(text))


def thirds(numbers: Sequence[float]) -> list[str]:
    """Each number as the range of the third of them that it is in; fewer ranges where many are equal."""
    low, high = np.quantile(numbers, [1 / 3, 2 / 3])
    short = "{:.0f}".format if all(float(number).is_integer() for number in numbers) else "{:.2f}".format
    edges = sorted({float(short(low)), float(short(high))})
    ranges = [f"≤ {short(edges[0])}", *(f"{short(a)} – {short(b)}" for a, b in pairwise(edges))]
    ranges.append(f"> {short(edges[-1])}")
    return [ranges[int(np.searchsorted(edges, number))] for number in numbers]


def _length_ratio(a: str, b: str) -> float:
    lengths = sorted(len(words(text)) or 1 for text in (a, b))
    return lengths[0] / lengths[1]


def _in_sides(has: Callable[[str], bool], a: str, b: str) -> str:
    return ("none", "one", "both")[has(a) + has(b)]


def _alike(one: set[str], other: set[str]) -> str:
    if not one and not other:
        return "none"
    return "same" if one == other else "different"


def _unseen(rows: Sequence[LabelledPair], train: Sequence[LabelledPair]) -> list[str]:
    known = {word for row in train for text in (row.text_a, row.text_b) for word in words(text)}
    counts = (len({word for text in (row.text_a, row.text_b) for word in words(text)} - known) for row in rows)
    return ["≥ 2" if count > 1 else str(count) for count in counts]


def _fields(rows: Sequence[LabelledPair]) -> Mapping[str, Values]:
    """Of records: for each field, whether the two values are the same."""
    records = [(fields(row.text_a), fields(row.text_b)) for row in rows]
    known = dict.fromkeys(name for pair in records for record in pair for name in record)
    return {f"COL {name}": [_field(name, *pair) for pair in records] for name in known}


def _field(name: str, one: Mapping[str, str], other: Mapping[str, str]) -> str | None:
    values = [record.get(name, "").lower() for record in (one, other)]
    if not (one or other):
        return None
    if not all(values):
        return "missing"
    return "same" if values[0] == values[1] else "different"
