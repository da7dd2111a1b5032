"""What a batch costs on this artifact and this machine, learnt from the batches themselves.

    seconds(batch) = fixed_s + token_s x padded tokens

Fitted by least squares whose memory fades, so that it follows a machine that others use too. Under steady load all
batches have one size, which tells nothing about the two parts; the proportion of the parts that the warm-up measured
stays as a faint prior. The share of attention, which grows with the square of the length, does not show below a few
hundred tokens and is left out.
"""

from __future__ import annotations

# A batch is large enough when its fixed part is this share of its cost: a larger one gains next to nothing and makes
# its first item wait longer.
FIXED_SHARE = 0.05
# The fixed part is at least what so many tokens cost. Noise can say less; then every item would go alone.
LEAST_FIXED_TOKENS = 4
FADE = 0.98  # what a further batch leaves of the weight of those before it
PRIOR_WEIGHT = 0.2  # of each warm-up batch, for ever
OUTLIER = 4.0  # a batch that took longer than so many times its prediction was held up: it counts as if it took that

Sums = tuple[float, float, float, float, float]  # of 1, x, x², y, x y; x: padded tokens, y: seconds


class CostModel:
    """See the module. Not thread-safe. Until it has seen two sizes of batch, the fixed part is taken for small."""

    def __init__(self) -> None:
        self._prior: Sums = (0.0,) * 5
        self._recent: Sums = (0.0,) * 5
        self.fixed_s = 0.0
        self.token_s = 0.0

    def observe(self, padded_tokens: int, took_s: float, *, warm_up: bool = False) -> None:
        """Learn from one batch."""
        if self.token_s:
            took_s = min(took_s, OUTLIER * (self.fixed_s + self.token_s * padded_tokens))
        seen = (1.0, padded_tokens, padded_tokens**2, took_s, padded_tokens * took_s)
        if warm_up:
            self._prior = _sum(self._prior, seen, 1.0, PRIOR_WEIGHT)
        else:
            self._recent = _sum(self._recent, seen, FADE, 1.0)
        self.fixed_s, self.token_s = _fit(_sum(self._scaled_prior(), self._recent, 1.0, 1.0))

    @property
    def fixed_tokens(self) -> float:
        """The fixed part of a batch, in tokens that could be computed in that time."""
        return self.fixed_s / self.token_s if self.token_s else LEAST_FIXED_TOKENS

    @property
    def budget_tokens(self) -> float:
        """Padded tokens of the best batch."""
        return self.fixed_tokens * (1 - FIXED_SHARE) / FIXED_SHARE

    def _scaled_prior(self) -> Sums:
        """The warm-up's batches as they would be at today's speed: it is the proportion that is kept."""
        weight, x, xx, y, xy = self._prior
        count, tokens, _, seconds, _ = self._recent
        if not (weight and count):
            return self._prior
        fixed_s, token_s = _fit(self._prior)
        speed = seconds / (fixed_s * count + token_s * tokens)
        return weight, x, xx, y * speed, xy * speed


def _fit(sums: Sums) -> tuple[float, float]:
    """Fixed and token part, neither of them negative: where noise says so, the other one carries all."""
    weight, x, xx, y, xy = sums
    spread = weight * xx - x * x
    slope = (weight * xy - x * y) / spread if spread > 1e-6 * weight * xx else y / x
    # Larger batches that seem to cost less: then a token costs next to nothing.
    slope = max(slope, 1e-3 * y / x)
    fixed = (y - slope * x) / weight
    if fixed < LEAST_FIXED_TOKENS * slope:
        slope = y / (x + LEAST_FIXED_TOKENS * weight)
        fixed = LEAST_FIXED_TOKENS * slope
    return fixed, slope


def _sum(old: Sums, new: Sums, keep: float, weight: float) -> Sums:
    a, b, c, d, e = (keep * before + weight * now for before, now in zip(old, new, strict=True))
    return a, b, c, d, e
