"""Looks for everything that may be wrong with the rows of the three splits, and gathers it by row.

train is judged by its own rows, each by models that have not seen it. valid and test are judged by models of train
alone, and nothing of theirs reaches the judgement of train.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime.errors import InvalidInput
from training.data.pairs import LabelledPair
from training.data.splits import LEAK_DIRECTIONS, SPLITS, PairSplits
from training.review.contradictions import contradictions
from training.review.evidence import Pairs
from training.review.findings import DROP, KEEP, VECTORS_FILE, Kind, Reason, Review, Suspect, fingerprint
from training.review.label_errors import judge
from training.review.near_duplicates import groups, repeats
from training.review.out_of_fold import probabilities
from training.review.outliers import outliers
from training.review.vectors import Texts, cached_vectors, index_texts

Reasons = defaultdict[int, list[Reason]]  # row of all three splits -> why it is worth a look
F32 = npt.NDArray[np.float32]
MAX_TOKENS = 128
SHOWN = 3  # other rows that a reason names


def review(
    splits: PairSplits,
    labels: Sequence[str],
    encoder: tuple[str, Path],
    folder: Path,
    seed: int,
    log: Callable[[str], None] = lambda line: None,
) -> Review:
    """Everything that was found. `encoder`: its name and its folder; `folder` keeps its vectors for the next time.

    Raises DataError: too few rows of a label; InvalidInput: a label that is the name of a decision; OSError,
    ValueError: `encoder` is no encoder.
    """
    if taken := {DROP, KEEP} & set(labels):
        raise InvalidInput(f"the label {taken.pop()!r} is the name of a decision; rename it in the data.")
    rows = [row for split in SPLITS for row in splits.rows(split)]
    split_of = [split for split in SPLITS for _ in splits.rows(split)]
    texts = index_texts(rows)
    log(f"{len(rows)} rows, {len(texts.texts)} texts: vectors by {encoder[0]}")
    vectors = cached_vectors(texts.texts, encoder[1], MAX_TOKENS, folder / f"{VECTORS_FILE}.npz")
    all_rows = Pairs(
        vectors,
        texts.first,
        texts.second,
        np.array([labels.index(row.label) for row in rows], np.int64),
        labels.index(splits.positive),
        len(labels),
    )
    first_of = {split: split_of.index(split) for split in SPLITS}
    trained = np.array([split == "train" for split in split_of])
    found = probabilities(all_rows.only(trained), all_rows.only(~trained), seed, log)
    likely = np.concatenate([found.own, found.others])  # (N, C): train comes first
    quality, ranks = np.zeros(len(rows)), np.zeros(len(rows), np.int64)
    reasons: Reasons = defaultdict(list)
    errors = {}
    for split in SPLITS:
        mine = np.flatnonzero([each == split for each in split_of])
        judged = judge(all_rows.labels[mine], likely[mine])
        quality[mine], ranks[mine], errors[split] = judged.quality, judged.ranks, int(judged.wrong.sum())
        for place in mine[judged.wrong | (likely[mine].argmax(1) != all_rows.labels[mine])]:
            says = (
                f"the label is given {quality[place]:.0%}, {labels[likely[place].argmax()]!r} {likely[place].max():.0%}"
            )
            reasons[int(place)].append(Reason(kind="label", text=says))
    log("near-duplicates, contradictions, outliers")
    names = [f"{split}:{place - first_of[split] + 1}" for place, split in enumerate(split_of)]
    group = groups(texts.texts, vectors)
    keys = [
        (min(pair), max(pair)) for pair in zip(group[texts.first].tolist(), group[texts.second].tolist(), strict=True)
    ]
    _repeated(reasons, rows, keys, split_of, names)
    _same_text(reasons, rows, keys, splits.positive)
    _contradicting(reasons, rows, keys, split_of, names, splits.positive)
    _far(reasons, rows, texts, vectors)
    suspects = [
        _suspect(rows[place], names[place], found_here, labels, likely[place], quality[place], int(ranks[place]))
        for place, found_here in reasons.items()
    ]
    suspects.sort(key=lambda suspect: (SPLITS.index(suspect.split), suspect.rank))
    return Review(
        rows={split: len(splits.rows(split)) for split in SPLITS},
        sha256={split: splits.sha256(split) for split in SPLITS},
        encoder=encoder[0],
        seed=seed,
        counted_errors=errors,
        suspects=tuple(suspects),
    )


def _suspect(
    row: LabelledPair,
    name: str,
    reasons: Sequence[Reason],
    labels: Sequence[str],
    likely: npt.NDArray[np.float64],
    quality: float,
    rank: int,
) -> Suspect:
    kinds = {reason.kind for reason in reasons}
    guess = labels[int(likely.argmax())]
    repeated = kinds & {"duplicate", "leak"} and not kinds & {"conflict"}
    return Suspect(
        row=name,
        where=row.where,
        text_a=row.text_a,
        text_b=row.text_b,
        label=row.label,
        suggested=guess if guess != row.label else DROP if repeated else "",
        suspicion=round(1 - float(quality), 4),
        rank=rank,
        reasons=tuple(sorted(reasons, key=lambda reason: reason.kind != "label")),
        fingerprint=fingerprint(row),
    )


def _repeated(
    reasons: Reasons,
    rows: Sequence[LabelledPair],
    keys: Sequence[tuple[int, int]],
    split_of: Sequence[str],
    names: Sequence[str],
) -> None:
    """Near-duplicates in a split (all but the first), leaks (in the earlier split), conflicts (every row of them)."""
    for places in repeats(keys).values():
        for order, place in enumerate(places):
            others = [other for other in places if other != place]
            before = [other for other in places[:order] if split_of[other] == split_of[place]]
            later = [other for other in others if (split_of[place], split_of[other]) in LEAK_DIRECTIONS]
            against = [other for other in others if rows[other].label != rows[place].label]
            found: list[tuple[Kind, str, list[int]]] = [
                ("duplicate", "almost the pair of", before),
                ("leak", "almost the pair of", later),
                ("conflict", "labelled otherwise than almost the same pair in", against),
            ]
            for kind, text, named in found:
                if named:
                    reasons[place].append(Reason(kind=kind, text=f"{text} {_listed(names, named)}"))


def _same_text(reasons: Reasons, rows: Sequence[LabelledPair], keys: Sequence[tuple[int, int]], positive: str) -> None:
    for place, (one, other) in enumerate(keys):
        if one == other and rows[place].label != positive:
            reasons[place].append(Reason(kind="conflict", text="its two texts are almost the same"))


def _contradicting(
    reasons: Reasons,
    rows: Sequence[LabelledPair],
    keys: Sequence[tuple[int, int]],
    split_of: Sequence[str],
    names: Sequence[str],
    positive: str,
) -> None:
    for split in SPLITS:
        mine = [place for place, each in enumerate(split_of) if each == split]
        found = contradictions([keys[place] for place in mine], [rows[place].label == positive for place in mine])
        accused: defaultdict[int, list[int]] = defaultdict(list)
        for each in found:
            apart, chain = mine[each.apart], [mine[row] for row in each.chain]
            text = f"its texts are joined by the matches {_listed(names, chain)}"
            reasons[apart].append(Reason(kind="contradiction", text=text))
            for place in chain:
                accused[place].append(apart)
        for place, against in accused.items():
            text = f"this match contradicts {_listed(names, against)}"
            reasons[place].append(Reason(kind="contradiction", text=text))


def _far(reasons: Reasons, rows: Sequence[LabelledPair], texts: Texts, vectors: F32) -> None:
    far = outliers(vectors)
    for place in range(len(rows)):
        for name, text in (("text_a", texts.first[place]), ("text_b", texts.second[place])):
            if int(text) in far:
                says = f"{name} is far from all other texts (cosine {far[int(text)]:.2f})"
                reasons[place].append(Reason(kind="outlier", text=says))


def _listed(names: Sequence[str], places: Sequence[int]) -> str:
    rest = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
    return ", ".join(names[place] for place in places[:SHOWN]) + rest
