"""One stream and eight: ours over HTTP beside the raw loop of the same graph and beside peers, fp32 and int8.

A window is a number of tokens, not of seconds: the raw loop and every server do the very same work in it, prefill
included. Rounds are interleaved as in the peers section. Before a contestant in fp32 is measured, it must continue a
few prompts with the raw loop's own tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.arena import Arena, Running
from benchmarks.bench import say
from benchmarks.figures import Result, figure
from benchmarks.generation.bench import GenerationBench, Request, play
from benchmarks.generation.contestants import Ask, Entry, entries
from benchmarks.generation.prompts import Prompt
from benchmarks.generation.timings import gaps_between, percentile, tokens_per_s
from benchmarks.wrk import DriverFailed
from demo.commands import StepFailed
from runtime.errors import SluiceError
from runtime.text import load_tokenizer

STREAMS = (1, 8)
PROMPT_TOKENS = 32
TOKENS = 64
PARITY_PROMPTS, PARITY_TOKENS = 4, 16
FAILURES = (StepFailed, DriverFailed, SluiceError, OSError, ValueError)


def estimate_s(bench: GenerationBench) -> float:
    """Start of twenty servers and engines, then the rounds."""
    return 100 + bench.rounds * 100


def measure(bench: GenerationBench) -> Result:
    """Tokens/s, TTFT and gaps of each row; `failed` names who is missing. One model after the other: memory."""
    failed: dict[str, str] = {}
    rows: dict[str, Result] = {}
    for model in bench.models.names:
        rows |= measure_model(bench, model, failed)
    return {
        "what": f"prompts of {PROMPT_TOKENS} tokens, {TOKENS} generated, greedy",
        "prompt_tokens": PROMPT_TOKENS,
        "tokens": TOKENS,
        "rows": rows,
        "failed": failed,
    }


def measure_model(bench: GenerationBench, model: str, failed: dict[str, str]) -> dict[str, Result]:
    """The rows of one model."""
    windows: dict[str, dict[int, list[Result]]] = {}
    with Arena() as arena:
        running = started(arena, bench, model, failed)
        for number in range(bench.rounds):
            prompts = bench.prompts.many(1 + sum(STREAMS), PROMPT_TOKENS)
            turn = number % max(1, len(running))
            for entry, each in running[turn:] + running[:turn]:
                if label(entry) in failed:
                    continue
                try:
                    one_round(arena, entry, each, bench, prompts, windows.setdefault(label(entry), {}))
                except FAILURES as error:
                    failed[label(entry)] = f"in round {number + 1}: {error}"
                    say(f"{label(entry)} is left out from here: {error}")
            say(f"decode: {model}, round {number + 1} of {bench.rounds} done")
    people = {label(entry): (entry, each.contestant.tuning) for entry, each in running}
    return {name: row_figures(*people[name], its) for name, its in windows.items() if len(its) == len(STREAMS)}


def label(entry: Entry) -> str:
    """The name of a row."""
    return f"{entry.name}, {entry.model} {entry.precision}"


def started(arena: Arena, bench: GenerationBench, model: str, failed: dict[str, str]) -> list[tuple[Entry, Running]]:
    """Those that run and continue prompts as they should; the others are in `failed` with the reason."""
    prompts = bench.prompts.many(PARITY_PROMPTS, PROMPT_TOKENS)
    expected: dict[str, list[list[int]]] = {}  # by precision
    found = []
    for entry in entries(bench.models, model, bench.peers):
        try:
            running = arena.start(entry.make())
            with arena.driving(running, [Ask((prompts[0],), 2)]):
                said = continuations(running, entry, prompts)
        except FAILURES as error:
            failed[label(entry)] = str(error)
            say(f"{label(entry)} is left out: {error}")
            continue
        if entry.name == "raw":
            expected[entry.precision] = said
        if entry.precision == "fp32" and not same(said, expected[entry.precision], bench):
            failed[label(entry)] = (
                f"it continues prompts otherwise than the raw loop: {said[0]!r}, not {expected[entry.precision][0]}"
            )
            say(f"{label(entry)} is left out: {failed[label(entry)]}")
            continue
        say(f"{label(entry)} is ready")
        found.append((entry, running))
    return found


def continuations(running: Running, entry: Entry, prompts: Sequence[Prompt]) -> list[Any]:
    """What it says after each prompt alone: text where it is served, else ids."""
    answers = running.post([Ask((prompt,), PARITY_TOKENS) for prompt in prompts])
    said = [running.contestant.score(answer) for answer in answers]
    return said if entry.served else [ids[0] for ids in said]


def same(said: list[Any], expected: list[list[int]], bench: GenerationBench) -> bool:
    """Whether ids, or texts, are those of the raw loop."""
    tokenizer = load_tokenizer(bench.models.folder(bench.models.names[0]) / "tokenizer.json")

    def text(found: str | list[int]) -> str:
        # Servers differ in what they do with the space before the first word.
        return (found if isinstance(found, str) else str(tokenizer.decode(found))).strip()

    return [text(found) for found in said] == [text(ids) for ids in expected]


def one_round(
    arena: Arena, entry: Entry, running: Running, bench: GenerationBench, prompts: list[Prompt], windows: dict[int, Any]
) -> None:
    """A window of one stream, and one of eight."""
    # The warm-up has a prompt of its own: a prefix that a server keeps must not be the one that is measured.
    warm, *rest = prompts
    with arena.driving(running, [Ask((warm,), 4)]):
        for streams in STREAMS:
            taken, rest = rest[:streams], rest[streams:]
            window = served(running, taken, bench) if entry.served else unserved(running, taken)
            windows.setdefault(streams, []).append(window)


def unserved(running: Running, prompts: Sequence[Prompt]) -> Result:
    """One batch, timed by the engine's process."""
    answer = running.post([Ask(tuple(prompts), TOKENS)])[0]
    short = [len(ids) for ids in answer["tokens"] if len(ids) != TOKENS]
    if short:
        raise StepFailed(f"{running.contestant.name} generated {short[0]} tokens where {TOKENS} were asked for.")
    return {"per_s": len(prompts) * TOKENS / answer["seconds"]}


def served(running: Running, prompts: Sequence[Prompt], bench: GenerationBench) -> Result:
    """All streams at once, each to its end."""
    played = play(running, [[Request(Ask((prompt,), TOKENS, stream=True))] for prompt in prompts], bench.scratch)
    bad = [each for each in played.timings if each.status != 200 or each.tokens != TOKENS or not each.finished]
    if bad:
        raise StepFailed(
            f"{running.contestant.name} answered {bad[0].status} with {bad[0].tokens} tokens where {TOKENS} were asked "
            f"for{'' if bad[0].finished else '; the stream was cut'}."
        )
    gaps = gaps_between(played.timings, 0.0, float("inf"))
    return {
        "per_s": tokens_per_s(played.timings),
        "ttft_ms": 1000 * percentile([each.ttft_s for each in played.timings], 0.5),
        "gap_p50_ms": 1000 * percentile(gaps, 0.5),
        "gap_p99_ms": 1000 * percentile(gaps, 0.99),
        "driver_cpu_share": played.driver_cpu_share,
    }


def row_figures(entry: Entry, tuning: str, windows: dict[int, list[Result]]) -> dict[str, Any]:
    """All rounds of a row."""
    return {
        "name": entry.name,
        "model": entry.model,
        "precision": entry.precision,
        "served": entry.served,
        "tuning": tuning,
        "streams": {
            str(streams): {what: figure([each[what] for each in rounds]) for what in rounds[0]}
            for streams, rounds in windows.items()
        },
    }
