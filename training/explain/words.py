"""The page's own words: English phrases are the keys, other languages are tables beside this module."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import yaml

LANGUAGES = ("en", "zh")


class Words:
    """Phrases in one of LANGUAGES."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._table = None if language == "en" else _table(language)

    def __call__(self, phrase: str, **values: object) -> str:
        """`phrase` in this language, its {places} filled. Raises KeyError for a phrase that was never translated."""
        return (phrase if self._table is None else self._table[phrase]).format(**values)

    def known(self, name: str) -> str:
        """A name that may come from the data: translated where the table has it, else as it is."""
        return name if self._table is None else self._table.get(name, name)


@cache
def _table(language: str) -> Mapping[str, str]:
    found = yaml.safe_load(Path(__file__).with_name(f"{language}.yaml").read_text(encoding="utf-8"))
    return {str(phrase): str(translated) for phrase, translated in found.items()}
