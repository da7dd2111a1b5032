"""Sixteen requests at once that share their first 256 tokens, beside sixteen as long that share nothing: the time to
the first token. The shared prefix is a new one in every round, so the first to come pays for it.
"""

from __future__ import annotations

from benchmarks.arena import Arena, Running
from benchmarks.bench import say
from benchmarks.figures import Result, figure
from benchmarks.generation.bench import GenerationBench, Request, play
from benchmarks.generation.contestants import Ask, sluice
from benchmarks.generation.prompts import Prompt
from benchmarks.generation.timings import percentile
from demo.commands import StepFailed

REQUESTS = 16
PREFIX_TOKENS, OWN_TOKENS, TOKENS = 256, 16, 8


def estimate_s(bench: GenerationBench) -> float:
    """One server; a burst of each kind a round."""
    return 12 + bench.rounds * 18


def measure(bench: GenerationBench) -> Result:
    """TTFT p50 of both, and their ratio round by round."""
    model, precision = bench.models.names[0], "int8"
    rounds: list[tuple[float, float]] = []
    with Arena() as arena:
        ours = arena.start(sluice(bench.models, model, precision))
        for number in range(bench.rounds):
            shared = bench.prompts.next(PREFIX_TOKENS)
            with arena.driving(ours, [Ask((bench.prompts.next(OWN_TOKENS),), 4)]):
                reused = ttft_p50_s(ours, [shared] * REQUESTS, bench)
                own = ttft_p50_s(ours, bench.prompts.many(REQUESTS, PREFIX_TOKENS), bench)
            rounds.append((reused, own))
            say(f"prefix: round {number + 1} of {bench.rounds} done")
    return {
        "what": f"{REQUESTS} requests at once, {PREFIX_TOKENS} tokens of prefix, {OWN_TOKENS} of their own",
        "row": bench.models.name(model, precision),
        "shared_ttft_ms": figure([1000 * shared for shared, _ in rounds]),
        "distinct_ttft_ms": figure([1000 * own for _, own in rounds]),
        "ratio": figure([shared / own for shared, own in rounds]),
    }


def ttft_p50_s(ours: Running, prefixes: list[Prompt], bench: GenerationBench) -> float:
    """Of one burst. Raises StepFailed when a request was not answered in full."""
    asks = [Ask((prefix + bench.prompts.next(OWN_TOKENS),), TOKENS, stream=True) for prefix in prefixes]
    played = play(ours, [[Request(ask)] for ask in asks], bench.scratch)
    if any(each.tokens != TOKENS for each in played.timings):
        raise StepFailed("prefix: a request was not answered in full.")
    return percentile([each.ttft_s for each in played.timings], 0.5)
