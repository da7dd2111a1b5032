"""Makes the bundled samples from their sources: `python -m training.samples.make --source DIR [--target DIR]`.

DIR holds `banking77/` (train.csv, test.csv, LICENSE), `banking77-pairs/` (train, valid, test .jsonl) and
`shakespeare/train.txt`. The same source gives the same bytes. What is made, and why so, stands in each NOTICE.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
import shutil
import sys
from collections import defaultdict
from itertools import combinations
from pathlib import Path

# Neighbourhoods of questions that are easily confused, two intents each.
NEIGHBOURS = (
    ("card_arrival", "card_delivery_estimate"),
    ("activate_my_card", "getting_spare_card"),
    ("exchange_rate", "exchange_charge"),
    ("request_refund", "Refund_not_showing_up"),
    ("pending_top_up", "top_up_failed"),
    ("declined_card_payment", "declined_cash_withdrawal"),
)
TWIN = {one: other for pair in NEIGHBOURS for one, other in (pair, pair[::-1])}
INTENTS = tuple(TWIN)
LONGEST_QUESTION = 60  # characters; a pair then has about 25 tokens, which is what a minute or two of training affords
PAIRS = {"train": 4000, "valid": 400, "test": 800}  # half of each are positive
HARD_OF = 4  # three of four negatives are hard: two questions of neighbouring intents, …
HARD_CANDIDATES = 5  # … the one with the most words in common of this many
SEED = 7

Pair = tuple[str, str, int]


def main(arguments: list[str]) -> int:
    """The command. Exit codes: 0 done, 1 the source is not as expected, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m training.samples.make", description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="folder with the three sources")
    parser.add_argument("--target", type=Path, default=Path(__file__).parent, help="default: beside this script")
    options = parser.parse_args(arguments)
    try:
        make(options.source, options.target)
    except (FileNotFoundError, ValueError) as error:
        print(f"make: {error}", file=sys.stderr)
        return 1
    return 0


def make(source: Path, target: Path) -> None:
    """Write `banking77-pairs/` and `shakespeare/` below `target`. Raises FileNotFoundError, ValueError."""
    intents = read_intents(source / "banking77")
    folder = target / "banking77-pairs"
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in PAIRS.items():
        # The source's own split of the questions: no question of one split stands in another.
        questions = read_questions(source / "banking77-pairs" / f"{split}.jsonl")
        by_intent: dict[str, list[str]] = {intent: [] for intent in INTENTS}
        for question in sorted(questions):
            if intents.get(question) in by_intent and len(question) <= LONGEST_QUESTION:
                by_intent[intents[question]].append(question)
        pairs = draw_pairs(by_intent, count, random.Random(f"{SEED} {split}"))
        lines = [json.dumps({"text_a": a, "text_b": b, "label": label}, ensure_ascii=False) for a, b, label in pairs]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{folder / split}.jsonl: {len(pairs)} pairs of {sum(map(len, by_intent.values()))} questions")
    shutil.copyfile(source / "banking77" / "LICENSE", folder / "LICENSE")
    (target / "shakespeare").mkdir(exist_ok=True)
    shutil.copyfile(source / "shakespeare" / "train.txt", target / "shakespeare" / "train.txt")


def read_intents(folder: Path) -> dict[str, str]:
    """question -> intent, of both files of BANKING77."""
    intents = {}
    for name in ("train.csv", "test.csv"):
        with (folder / name).open(encoding="utf-8", newline="") as stream:
            intents |= {row["text"]: row["category"] for row in csv.DictReader(stream)}
    missing = set(INTENTS) - set(intents.values())
    if missing:
        raise ValueError(f"{folder} does not know the intents {', '.join(sorted(missing))}.")
    return intents


def read_questions(path: Path) -> set[str]:
    """Every question of a file of pairs."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row[side] for row in rows for side in ("text_a", "text_b")}


def draw_pairs(by_intent: dict[str, list[str]], count: int, chance: random.Random) -> list[Pair]:
    """`count` pairs: half of one intent (about as many of each); half of two intents, most of these hard."""
    positives: list[Pair] = []
    share = count // 2 // len(by_intent) + 1
    for questions in by_intent.values():
        every = list(combinations(questions, 2))
        positives += [(a, b, 1) for a, b in chance.sample(every, share)]
    chance.shuffle(positives)
    positives = positives[: count // 2]
    intent_of = {question: intent for intent, questions in by_intent.items() for question in questions}
    every_question = sorted(intent_of)
    words = {question: set(re.findall(r"[a-z']+", question.lower())) for question in every_question}
    negatives: dict[frozenset[str], Pair] = {}
    used: defaultdict[str, int] = defaultdict(int)
    while len(negatives) < count - len(positives):
        # The least used question next, so that all of them meet negatives.
        a = min(chance.sample(every_question, 5), key=lambda question: used[question])
        if len(negatives) % HARD_OF:
            near = chance.sample(by_intent[TWIN[intent_of[a]]], HARD_CANDIDATES)
            b = max(near, key=lambda b: len(words[a] & words[b]) / len(words[a] | words[b]))
        else:
            b = chance.choice([b for b in every_question if intent_of[b] != intent_of[a]])
        if frozenset((a, b)) not in negatives:
            negatives[frozenset((a, b))] = (a, b, 0)
            used[a] += 1
            used[b] += 1
    pairs = positives + list(negatives.values())
    chance.shuffle(pairs)
    return [(b, a, label) if chance.random() < 0.5 else (a, b, label) for a, b, label in pairs]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
