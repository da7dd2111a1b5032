"""Three times the completions that the server can do, streamed, at a constant rate that does not care."""

from __future__ import annotations

from collections import Counter

from benchmarks.arena import Arena
from benchmarks.bench import say
from benchmarks.figures import Result
from benchmarks.generation.bench import GenerationBench, Played, Request, play
from benchmarks.generation.contestants import SLOTS, Ask, sluice
from benchmarks.generation.timings import percentile
from benchmarks.metrics import Memory, quarters
from demo.commands import StepFailed

TIMES = 3
PROMPT_TOKENS, TOKENS = 32, 32
CLOSED_REQUESTS = 60


def estimate_s(bench: GenerationBench) -> float:
    """A closed loop before, the flood, and a closed loop to see that it has recovered."""
    return 15 + bench.overload_s + 2 * bench.seconds + 20


def measure(bench: GenerationBench) -> Result:
    """Statuses, streams that were cut, memory by the second."""
    model, precision = bench.models.names[0], "int8"
    with Arena() as arena:
        ours = arena.start(sluice(bench.models, model, precision))
        with arena.driving(ours, [Ask((bench.prompts.next(PROMPT_TOKENS),), 4)]):
            before = play(ours, closed_loop(bench), bench.scratch, bench.seconds)
            saturated = len(before.timings) / max(each.ended_s or 0.0 for each in before.timings)
            rate = TIMES * saturated
            say(f"overload: saturated at {saturated:.1f}/s; {rate:.1f}/s for {bench.overload_s:.0f} s from here")
            due = [number / rate for number in range(int(rate * bench.overload_s))]
            with Memory(ours) as memory:
                flood = play(ours, [[request(bench, due_s)] for due_s in due], bench.scratch, bench.overload_s)
            after = play(ours, closed_loop(bench), bench.scratch, bench.seconds)
    second, last = quarters(memory.samples_mb)
    return {
        "what": f"{rate:.1f} streamed completions/s, {TIMES} times the saturated rate, for {bench.overload_s:.0f} s",
        "row": bench.models.name(model, precision),
        "saturated_per_s": saturated,
        "before": phase(before),
        "flood": phase(flood),
        "after": phase(after),
        "answered_per_s": sum(each.finished and each.status == 200 for each in flood.timings) / bench.overload_s,
        "rss_mb": [round(value, 1) for value in memory.samples_mb],
        "rss_second_quarter_mb": second,
        "rss_last_quarter_mb": last,
    }


def request(bench: GenerationBench, due_s: float = 0.0) -> Request:
    """A completion with a prompt of its own."""
    return Request(Ask((bench.prompts.next(PROMPT_TOKENS),), TOKENS, stream=True), due_s)


def closed_loop(bench: GenerationBench) -> list[list[Request]]:
    """As many clients as slots, with more requests each than can be answered in the time."""
    return [[request(bench) for _ in range(CLOSED_REQUESTS)] for _ in range(SLOTS)]


def phase(played: Played) -> Result:
    """What came back. A stream is cut when it began and did not get to its end, or to its last token."""
    answered = [each for each in played.timings if each.status == 200 and each.arrivals]
    if not answered:
        raise StepFailed("overload: nothing was answered.")
    return {
        "statuses": dict(Counter(str(each.status) if each.status else "broken" for each in played.timings)),
        "cut": sum(not (each.finished and each.tokens == TOKENS) for each in played.timings if each.status == 200),
        "without_retry_after": sum(each.status == 429 and not each.retry_after for each in played.timings),
        "ttft_p50_ms": 1000 * percentile([each.ttft_s for each in answered], 0.5),
        "ttft_p99_ms": 1000 * percentile([each.ttft_s for each in answered], 0.99),
        "driver_cpu_share": played.driver_cpu_share,
    }
