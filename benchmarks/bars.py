"""All bars, in the order of the documents."""

from __future__ import annotations

from benchmarks.generation.bars import GENERATION_BARS
from benchmarks.matching_bars import MATCHING_BARS

BARS = (*MATCHING_BARS, *GENERATION_BARS)
