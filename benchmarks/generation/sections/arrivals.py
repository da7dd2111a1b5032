"""Eight streams run and one slot is free: what a newcomer waits for its first token, and what the others notice.

Two windows a round: newcomers with short prompts one after the other, and one newcomer with a prompt of 900 tokens. The
newcomer's own prefill is timed in the same round, alone, in the raw loop of the same graph.
"""

from __future__ import annotations

from typing import Any

from benchmarks.arena import Arena, Running
from benchmarks.bench import say
from benchmarks.figures import Result, figure
from benchmarks.generation.bench import GenerationBench, Played, Request, play
from benchmarks.generation.contestants import SLOTS, Ask, raw, sluice
from benchmarks.generation.timings import Timing, gaps_between, percentile
from demo.commands import StepFailed

NEWCOMER = SLOTS  # the number of the client after the streams
SHORT_TOKENS, LONG_TOKENS, RUNNING_TOKENS = 32, 900, 32
STREAM_TOKENS = 400
NEWCOMERS, NEWCOMER_TOKENS, PAUSE_S = 6, 8, 0.5
FIRST_S = 1.0  # by then all streams run
PREFILLS = 3


def estimate_s(bench: GenerationBench) -> float:
    """One server and the raw loop; two windows a round."""
    return 20 + bench.rounds * 30


def measure(bench: GenerationBench) -> Result:
    """TTFT, own prefill, decode step, and the gaps of the running streams, round by round."""
    model, precision = bench.models.names[0], "int8"
    rounds: list[dict[str, float]] = []
    with Arena() as arena:
        ours = arena.start(sluice(bench.models, model, precision, SLOTS + 1))
        loop = arena.start(raw(bench.models, model, precision))
        for number in range(bench.rounds):
            prefills = {tokens: prefill_s(arena, loop, bench, tokens) for tokens in (SHORT_TOKENS, LONG_TOKENS)}
            with arena.driving(ours, [Ask((bench.prompts.next(RUNNING_TOKENS),), 4)]):
                short = play(ours, clients(bench, SHORT_TOKENS, NEWCOMERS), bench.scratch)
                long = play(ours, clients(bench, LONG_TOKENS, 1), bench.scratch)
            rounds.append(figures(short, long, prefills))
            say(f"arrivals: round {number + 1} of {bench.rounds} done")
    return {
        "what": f"{SLOTS} streams run, a newcomer of {SHORT_TOKENS} or {LONG_TOKENS} tokens takes the ninth slot",
        "row": bench.models.name(model, precision),
        "newcomers_a_round": NEWCOMERS,
        "figures": {name: figure([each[name] for each in rounds]) for name in rounds[0]},
    }


def prefill_s(arena: Arena, loop: Running, bench: GenerationBench, tokens: int) -> float:
    """Seconds of a prompt's prefill alone, with nothing else running."""
    with arena.driving(loop, [Ask((bench.prompts.next(tokens),), 1)]):
        answers = loop.post([Ask((bench.prompts.next(tokens),), 1) for _ in range(PREFILLS)])
    return percentile([float(answer["seconds"]) for answer in answers], 0.5)


def clients(bench: GenerationBench, newcomer_tokens: int, newcomers: int) -> list[list[Request]]:
    """The streams, and after them the newcomer, who comes several times."""

    def ask(prompt_tokens: int, tokens: int) -> Ask:
        return Ask((bench.prompts.next(prompt_tokens),), tokens, stream=True)

    streams = [[Request(ask(RUNNING_TOKENS, STREAM_TOKENS))] for _ in range(SLOTS)]
    comes = [
        Request(ask(newcomer_tokens, NEWCOMER_TOKENS), PAUSE_S if number else FIRST_S) for number in range(newcomers)
    ]
    return [*streams, comes]


def figures(short: Played, long: Played, prefills: dict[int, float]) -> dict[str, float]:
    """One round in milliseconds and ratios. Raises StepFailed where the streams did not run all the while."""
    comers, giant = split(short), split(long)
    first, last = comers[0].due_s, max(each.arrivals[-1] for each in comers)
    gaps = gaps_between(streams_of(short), first, last)
    alone = gaps_between(streams_of(long), 0.5 * giant[0].due_s, giant[0].due_s)
    step = percentile(alone, 0.5)
    during = gaps_between(streams_of(long), giant[0].due_s, giant[0].arrivals[0])
    ttft = percentile([each.ttft_s for each in comers], 0.5)
    return {
        "ttft_ms": 1000 * ttft,
        "prefill_ms": 1000 * prefills[SHORT_TOKENS],
        "step_ms": 1000 * step,
        "ttft_beyond_prefill_steps": (ttft - prefills[SHORT_TOKENS]) / step,
        "others_p50_ms": 1000 * percentile(gaps, 0.5),
        "others_p99_ms": 1000 * percentile(gaps, 0.99),
        "long_prefill_ms": 1000 * prefills[LONG_TOKENS],
        "long_ttft_ms": 1000 * giant[0].ttft_s,
        "long_stall_ms": 1000 * max(during),
        "long_stall_steps": max(during) / step,
        "driver_cpu_share": short.driver_cpu_share,
    }


def split(played: Played) -> list[Timing]:
    """The newcomers, after a look at the streams: all must still have been running."""
    comers = played.of(NEWCOMER)
    bad: list[Any] = [each.status for each in played.timings if not each.finished]
    if bad:
        raise StepFailed(f"arrivals: a stream ended with status {bad[0]} and without its end.")
    if min(each.arrivals[-1] for each in streams_of(played)) < max(each.arrivals[0] for each in comers):
        raise StepFailed("arrivals: the streams ended before the last newcomer had come.")
    return comers


def streams_of(played: Played) -> list[Timing]:
    """Those who run from the beginning."""
    return [each for each in played.timings if each.client != NEWCOMER]
