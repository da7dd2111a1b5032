"""Entity-matching files in the layout of Ditto (Li et al., arXiv:2004.00584) and records in general.

A line holds two records and a label, parted by tabs; a record is its attributes one after the other:

    COL title VAL iphone 4s COL price VAL 199<TAB>COL title VAL apple iphone COL price VAL<TAB>1

Here a record is a mapping from attribute to value, in the order of the file. How it becomes one text is the reader's
own choice (`training/data/serialisation.py`).
"""

from __future__ import annotations

import re

# An attribute's name has neither of the two words in it; its value reaches to the next name, and may be empty.
_ATTRIBUTE = re.compile(r"(?:^|(?<=\s))COL[ ]+((?:(?!\b(?:COL|VAL)\b)[^\t])+?)[ ]+VAL(?=\s|$)")
FIELDS = ("text_a", "text_b", "label")


def is_record(text: str) -> bool:
    """Whether `text` is a record in the layout: it begins with an attribute."""
    return text.startswith("COL ") and _ATTRIBUTE.match(text) is not None


def parse_record(text: str) -> dict[str, str]:
    """The attributes of one record. Raises ValueError: no attribute at its beginning, or one that stands twice."""
    marks = list(_ATTRIBUTE.finditer(text.strip()))
    if not marks or marks[0].start() > 0:
        raise ValueError("a record must begin with COL name VAL")
    ends = [mark.start() for mark in marks[1:]] + [len(text.strip())]
    record: dict[str, str] = {}
    for mark, end in zip(marks, ends, strict=True):
        if mark[1] in record:
            raise ValueError(f"the attribute {mark[1]!r} stands twice in a record")
        record[mark[1]] = text.strip()[mark.end() : end].strip()
    return record


def parse_line(line: str) -> dict[str, dict[str, str] | str]:
    """One line as `text_a` and `text_b`, each a record, and `label`. Raises ValueError."""
    fields = line.rstrip("\r\n").split("\t")
    if len(fields) != len(FIELDS):
        raise ValueError(f"two records and a label, parted by tabs, are needed; found {len(fields)} fields")
    return {FIELDS[0]: parse_record(fields[0]), FIELDS[1]: parse_record(fields[1]), FIELDS[2]: fields[2].strip()}
