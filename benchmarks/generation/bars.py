"""The bars of generation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.bar import FLAT, Bar, Measured, Results, memory, ratio, times

OURS, RAW, TRANSFORMERS = "sluice", "raw", "transformers serve"
ONE, EIGHT = "1", "8"
Row = dict[str, Any]


def row(results: Results, name: str, model: str, precision: str) -> Row:
    """A row of the decode section. Raises KeyError with its label."""
    found: Row = results["decode"]["rows"][f"{name}, {model} {precision}"]
    return found


def per_s(a_row: Row, streams: str) -> list[float]:
    """Tokens a second, round by round."""
    rounds: list[float] = a_row["streams"][streams]["per_s"]["rounds"]
    return rounds


def shapes(results: Results) -> list[tuple[str, str]]:
    """(model, precision) of ours. Raises KeyError where there is none."""
    found = [(each["model"], each["precision"]) for each in results["decode"]["rows"].values() if each["name"] == OURS]
    if not found:
        raise KeyError("no row of ours")
    return found


def _reference(results: Results, streams: str) -> Measured:
    told = [
        f"{each['model']} {each['precision']} {each['streams'][streams]['per_s']['median']:.0f}"
        for each in results["decode"]["rows"].values()
        if each["name"] == RAW
    ]
    return f"{', '.join(told)} tokens/s", None


def worst(ratios: dict[str, float], bar: float, unit: str) -> Measured:
    """The least of several ratios decides; all are told."""
    told = ", ".join(f"{what} {value:.2f}" for what, value in ratios.items())
    return f"{min(ratios.values()):.2f} {unit} ({told})", min(ratios.values()) >= bar


def _of_raw(results: Results, streams: str, bar: float) -> Measured:
    ratios = {
        f"{model} {precision}": ratio(
            per_s(row(results, OURS, model, precision), streams), per_s(row(results, RAW, model, precision), streams)
        )
        for model, precision in shapes(results)
    }
    return worst(ratios, bar, f"R{streams}")


def _over_transformers(results: Results) -> Measured:
    ratios = {}
    for model, precision in shapes(results):
        peer = results["decode"]["rows"].get(f"{TRANSFORMERS}, {model} fp32")
        if peer:
            ratios[f"{model} {precision}"] = ratio(
                per_s(row(results, OURS, model, precision), EIGHT), per_s(peer, EIGHT)
            )
    if not ratios:
        raise KeyError(f"{TRANSFORMERS}, gpt2 fp32")
    return worst(ratios, 3.0, "x")


def _over_peers(results: Results, precision: str, served_only: bool) -> Measured:
    ratios = {}
    for model, its in shapes(results):
        if its != precision:
            continue
        ours = per_s(row(results, OURS, model, precision), EIGHT)
        for name, peer in results["decode"]["rows"].items():
            same = peer["model"] == model and peer["precision"] == precision and peer["name"] not in (OURS, RAW)
            if same and peer["served"] is served_only:
                ratios[name.removesuffix(f" {precision}")] = ratio(ours, per_s(peer, EIGHT))
    if not ratios:
        raise KeyError("no peer")
    nearest = min(ratios, key=lambda name: ratios[name])
    told = ", ".join(f"{name} {value:.2f}" for name, value in ratios.items())
    return f"{ratios[nearest]:.2f}x of the nearest ({told})", ratios[nearest] > 1 if served_only else None


def _int8(results: Results, streams: str, bar: float) -> Measured:
    models = dict.fromkeys(model for model, _ in shapes(results))
    ratios = {
        model: ratio(
            per_s(row(results, OURS, model, "int8"), streams), per_s(row(results, OURS, model, "fp32"), streams)
        )
        for model in models
    }
    return worst(ratios, bar, "x")


def _figure(results: Results, name: str) -> float:
    return float(results["arrivals"]["figures"][name]["median"])


def _newcomer(results: Results) -> Measured:
    ttft, prefill, step = (_figure(results, name) for name in ("ttft_ms", "prefill_ms", "step_ms"))
    beyond = _figure(results, "ttft_beyond_prefill_steps")
    return f"{ttft:.0f} ms = prefill {prefill:.0f} ms + {beyond:.1f} steps of {step:.0f} ms", beyond <= 2


def _others(results: Results) -> Measured:
    p50, p99 = _figure(results, "others_p50_ms"), _figure(results, "others_p99_ms")
    return f"p99 {p99:.0f} ms, p50 {p50:.0f} ms: {p99 / p50:.1f}x", p99 <= 2 * p50


def _stall(results: Results) -> Measured:
    steps, stall = _figure(results, "long_stall_steps"), _figure(results, "long_stall_ms")
    text = f"at most {stall:.0f} ms, {steps:.1f} steps; its first token after {_figure(results, 'long_ttft_ms'):.0f} ms"
    alone = _figure(results, "long_prefill_ms")
    return f"{text} (alone {alone:.0f} ms)", steps <= 3


def _goodput(results: Results) -> Measured:
    its = results["goodput"]
    both = [its[name]["goodput_per_s"]["median"] for name in ("continuous", "static_batching")]
    text, met = times(its["ratio"]["median"], 1.5)
    return f"{text}: {both[0]:.2f} against {both[1]:.2f} requests/s", met


def _perplexity(results: Results) -> Measured:
    its = results["precision"]
    fp32, int8 = (its["perplexity"][name] for name in ("fp32", "int8"))
    return f"{int8:.3f} against {fp32:.3f}: {its['worse_by']:+.2%}", abs(its["worse_by"]) <= 0.01


def _prefix(results: Results) -> Measured:
    its = results["prefix"]
    shared, distinct = its["shared_ttft_ms"]["median"], its["distinct_ttft_ms"]["median"]
    return f"{its['ratio']['median']:.2f}x: {shared:.0f} against {distinct:.0f} ms", its["ratio"]["median"] <= 0.35


def _statuses(results: Results) -> Measured:
    flood = results["generation-overload"]["flood"]
    told = ", ".join(f"{count} x {status}" for status, count in sorted(flood["statuses"].items()))
    clean = set(flood["statuses"]) <= {"200", "429"} and not flood["without_retry_after"]
    return f"{told}; {flood['without_retry_after']} of the 429 without Retry-After", clean


def _cut(results: Results) -> Measured:
    flood = results["generation-overload"]["flood"]
    return f"{flood['cut']} of {flood['statuses'].get('200', 0)}", flood["cut"] == 0


def _bar(figure: str, bar: str, section: str, measure: Callable[[Results], Measured]) -> Bar:
    return Bar(f"generation: {figure}", bar, (section,), measure)


GENERATION_BARS = (
    _bar("raw loop R1, 1 stream", "reference", "decode", lambda r: _reference(r, ONE)),
    _bar("raw loop R8, 8 streams", "reference", "decode", lambda r: _reference(r, EIGHT)),
    _bar("1 stream over HTTP", ">= 0.90 R1", "decode", lambda r: _of_raw(r, ONE, 0.90)),
    _bar("8 streams over HTTP", ">= 0.85 R8", "decode", lambda r: _of_raw(r, EIGHT, 0.85)),
    _bar("8 streams, over transformers serve", ">= 3x", "decode", _over_transformers),
    *(
        _bar(
            f"8 streams, over peers served in {precision}",
            "> 1x",
            "decode",
            lambda r, precision=precision: _over_peers(r, precision, True),  # type: ignore[misc]
        )
        for precision in ("fp32", "int8")
    ),
    *(
        _bar(
            f"8 streams over HTTP, over raw engines in {precision}",
            "for comparison",
            "decode",
            lambda r, precision=precision: _over_peers(r, precision, False),  # type: ignore[misc]
        )
        for precision in ("fp32", "int8")
    ),
    _bar("a ninth arrives: its first token", "<= own prefill + 2 steps", "arrivals", _newcomer),
    _bar("a ninth arrives: gaps of the others", "p99 <= 2x p50", "arrivals", _others),
    _bar("a prompt of 900 tokens: stall of the others", "<= 3 of their steps", "arrivals", _stall),
    _bar("32 clients: goodput over static batching", ">= 1.5x", "goodput", _goodput),
    _bar("int8: perplexity of the trained model", "within 1 % of fp32", "precision", _perplexity),
    _bar("int8 over fp32, 1 stream", ">= 1.8x", "decode", lambda r: _int8(r, ONE, 1.8)),
    _bar("int8 over fp32, 8 streams", ">= 1.15x", "decode", lambda r: _int8(r, EIGHT, 1.15)),
    _bar("shared prefix of 256 tokens: TTFT p50", "<= 0.35x of none shared", "prefix", _prefix),
    _bar("3x overload, 60 s: answers", "only 200, and 429 with Retry-After", "generation-overload", _statuses),
    _bar("3x overload: streams cut", "none", "generation-overload", _cut),
    _bar(
        "3x overload: memory",
        f"flat: at most {FLAT:.0%} more",
        "generation-overload",
        lambda r: memory(r["generation-overload"]),
    ),
)
