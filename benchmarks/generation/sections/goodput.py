"""32 clients on eight slots, completions of 32 to 256 tokens: how many requests a second have their first token within
two seconds, continuous batching over HTTP beside static batching on the same graph in process.

The clients pause between requests, so that together they ask for LOAD of what eight slots can do without ever waiting
for each other. Without pauses 24 of 32 requests always wait, and with these lengths no order of service gives them a
first token within two seconds. Lengths and pauses are drawn once and are the same for both.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence

from benchmarks.arena import Arena
from benchmarks.bench import say
from benchmarks.figures import Result, figure
from benchmarks.generation.bench import GenerationBench, Request, play
from benchmarks.generation.contestants import SLOTS, Ask, sluice
from benchmarks.generation.prompts import Prompt
from benchmarks.generation.raw import open_backend
from benchmarks.generation.static import BackendMachine, Job
from benchmarks.generation.static import play as play_static
from benchmarks.generation.timings import Timing, goodput_per_s, percentile
from runtime.contract import GenerationBackend

CLIENTS = 32
LENGTHS = (32, 256)
PROMPT_TOKENS = 32
TTFT_LIMIT_S = 2.0
LOAD = 0.9
LONGER = 6  # windows than elsewhere: a completion takes seconds
ROUNDS = 2
STEPS = 24
Plan = list[list[tuple[Prompt, int, float]]]  # a client's (prompt, tokens, pause before it)


def estimate_s(bench: GenerationBench) -> float:
    """A window of each and what is still under way at its end."""
    return 25 + min(ROUNDS, bench.rounds) * 2 * (LONGER * bench.seconds + 6)


def measure(bench: GenerationBench) -> Result:
    """Goodput of both, round by round, and the share of requests within the limit."""
    model, precision, seconds = bench.models.names[0], "int8", LONGER * bench.seconds
    backend = open_backend(bench.models.artifact(model, precision), SLOTS)
    capacity = capacity_per_s(backend, bench)
    rounds: list[tuple[list[Timing], list[Timing]]] = []
    driver = 0.0
    with Arena() as arena:
        ours = arena.start(sluice(bench.models, model, precision))
        for number in range(min(ROUNDS, bench.rounds)):
            plan = draw(bench, capacity, seconds, seed=number)
            machine = BackendMachine(backend)
            static = play_static(jobs(plan), machine, SLOTS, seconds)
            with arena.driving(ours, [Ask((bench.prompts.next(PROMPT_TOKENS),), 4)]):
                served = play(ours, requests(plan), bench.scratch, seconds)
            driver = max(driver, served.driver_cpu_share)
            rounds.append((served.timings, static))
            say(f"goodput: round {number + 1} of {min(ROUNDS, bench.rounds)} done")
    goodputs = [[goodput_per_s(each, TTFT_LIMIT_S, seconds) for each in both] for both in rounds]
    return {
        "what": f"{CLIENTS} clients, {SLOTS} slots, {LENGTHS[0]} to {LENGTHS[1]} tokens, {seconds:.0f} s a round",
        "row": bench.models.name(model, precision),
        "static": "in process on the same graph, without HTTP",
        "ttft_limit_s": TTFT_LIMIT_S,
        "capacity_per_s": capacity,
        "load": LOAD,
        "continuous": row([served for served, _ in rounds], seconds),
        "static_batching": row([static for _, static in rounds], seconds),
        "ratio": figure([ours / max(static, 1 / seconds) for ours, static in goodputs]),
        "driver_cpu_share": driver,
    }


def capacity_per_s(backend: GenerationBackend, bench: GenerationBench) -> float:
    """Requests a second of eight slots that never idle: from a prefill and a decode step of the raw loop."""
    machine = BackendMachine(backend)
    prefills = []
    for slot, prompt in enumerate(bench.prompts.many(SLOTS, PROMPT_TOKENS)):
        begun = machine.now_s()
        machine.prefill(slot, prompt.ids)
        prefills.append(machine.now_s() - begun)
    steps = []
    for _ in range(STEPS):
        begun = machine.now_s()
        machine.decode()
        steps.append(machine.now_s() - begun)
    return 1 / (statistics.median(prefills) + statistics.mean(LENGTHS) * statistics.median(steps) / SLOTS)


def draw(bench: GenerationBench, capacity: float, seconds: float, seed: int) -> Plan:
    """What each client will ask, enough for the whole window."""
    dice = random.Random(seed)
    cycle_s = CLIENTS / (LOAD * capacity)
    service_s = SLOTS / capacity
    pause_s = max(0.1, cycle_s - service_s)
    count = 2 + int(4 * seconds / cycle_s)

    def one(first: bool) -> tuple[Prompt, int, float]:
        after_s = dice.uniform(0, cycle_s) if first else dice.expovariate(1 / pause_s)
        return bench.prompts.next(PROMPT_TOKENS), dice.randint(*LENGTHS), after_s

    return [[one(number == 0) for number in range(count)] for _ in range(CLIENTS)]


def jobs(plan: Plan) -> list[list[Job]]:
    """The plan for the static batcher."""
    return [[Job(prompt.ids, tokens, after_s) for prompt, tokens, after_s in client] for client in plan]


def requests(plan: Plan) -> list[list[Request]]:
    """The plan for the server."""
    return [
        [Request(Ask((prompt,), tokens, stream=True), after_s) for prompt, tokens, after_s in client] for client in plan
    ]


def row(rounds: Sequence[Sequence[Timing]], seconds: float) -> Result:
    """Goodput, and what became of the requests."""
    begun = [[each for each in timings if each.due_s < seconds] for timings in rounds]
    firsts = [[each.ttft_s for each in timings if each.arrivals] for timings in begun]
    return {
        "goodput_per_s": figure([goodput_per_s(timings, TTFT_LIMIT_S, seconds) for timings in rounds]),
        "share_within": figure([sum(ttft <= TTFT_LIMIT_S for ttft in found) / len(found) for found in firsts]),
        "ttft_p50_ms": figure([1000 * percentile(found, 0.5) for found in firsts]),
        "ttft_p99_ms": figure([1000 * percentile(found, 0.99) for found in firsts]),
        "tokens_per_s": figure([sum(each.tokens for each in timings) / seconds for timings in rounds]),
        "refused": sum(each.status != 200 for timings in rounds for each in timings),
    }
