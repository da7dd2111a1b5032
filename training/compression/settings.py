"""The recipe's `compress` section: which artifacts to make, and how far each may be from its parent."""

from __future__ import annotations

from pydantic import Field, model_validator

from runtime.manifest import Precision
from training.compression.registry import AnyStep
from training.compression.step import check_order
from training.section import Section


class Compress(Section):
    """Without `steps`: the export and one artifact a precision. With them: those, one after the other."""

    steps: tuple[AnyStep, ...] = ()  # from RUN/checkpoint on; see docs/compression.md for what there is
    candidates: dict[str, tuple[AnyStep, ...]] = Field(default_factory=dict)  # what a search tries, name -> steps
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    fp32_tolerance: float = Field(default=1e-3, gt=0)  # largest |difference| of scores, or of log-probabilities
    fp16_tolerance: float = Field(default=0.01, gt=0)  # largest |difference| of scores
    int8_tolerance: float = Field(default=0.05, gt=0)  # mean |difference| of scores, or relative change of perplexity
    int4_tolerance: float = Field(default=0.03, gt=0)  # relative change of perplexity

    @model_validator(mode="after")
    def _steps_follow(self) -> Compress:
        """Raises ValueError where a step cannot take what the one before it makes."""
        for steps in (self.steps, *self.candidates.values()):
            check_order(steps)
        return self
