"""Makes the bundled dates: `python -m training.samples.dates [--target DIR]`. The same bytes every time.

A day as people write it, and as ISO 8601 has it: the smallest thing that an encoder-decoder can learn and be judged by.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
from datetime import date, timedelta
from pathlib import Path

ROWS = {"train": 4000, "valid": 200, "test": 200}
FIRST, DAYS = date(1980, 1, 1), 18_000  # drawn from, up to 2029
FORMS = (
    "{day} {month} {year}",
    "{day}{ending} of {month}, {year}",
    "the {day}{ending} of {month} {year}",
    "{month} {day}, {year}",
    "{month} {day}{ending}, {year}",
    "{weekday}, {day} {month} {year}",
    "{day}.{number}.{year}",
    "{year}/{number:02}/{day:02}",
)
SEED = 7


def main(arguments: list[str]) -> int:
    """The command. Exit codes: 0 done, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m training.samples.dates", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--target", type=Path, default=Path(__file__).parent / "dates", help="default: beside this")
    make(parser.parse_args(arguments).target)
    return 0


def make(folder: Path) -> None:
    """Write train.csv, valid.csv and test.csv into `folder`; no day of one stands in another."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(SEED)
    days = [FIRST + timedelta(days=each) for each in chance.sample(range(DAYS), sum(ROWS.values()))]
    for split, count in ROWS.items():
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(("source", "target"))
            writer.writerows((written(day, chance), day.isoformat()) for day in days[:count])
        del days[:count]


def written(day: date, chance: random.Random) -> str:
    """The day in one of FORMS; month and weekday in full or as three letters."""
    length = chance.choice((3, 9))
    ending = "th" if 11 <= day.day <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(day.day % 10, "th")
    return chance.choice(FORMS).format(
        day=day.day,
        ending=ending,
        month=f"{day:%B}"[:length],
        weekday=f"{day:%A}"[:length],
        number=day.month,
        year=day.year,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
