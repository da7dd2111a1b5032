"""The results of a run in a few lines, for a terminal or a log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from loadtests.results import KindFigures, RuleOutcome, RunResults
from loadtests.settings import Kind

MOST_ERROR_LINES = 5


def summarise(results: RunResults, paths: Sequence[Path]) -> str:
    """Return the figures of each kind, the errors, the findings, the rules, the verdict and where the reports lie."""
    totals = results.totals
    lines = [
        f"{totals.requests} requests in {results.measured_s:.1f} s: {totals.ok} ok, {totals.errors} errors, "
        f"{totals.shed.count} refused with 429"
    ]
    for kind, found in results.kinds.items():
        lines += _kind_lines(kind, found)
    for row in results.errors[:MOST_ERROR_LINES]:
        lines.append(f"  {row.count}x {row.kind} {row.code}: {row.message[:120]}")
    lines += [f"  note: {finding}" for finding in results.findings]
    lines += [_rule_line(rule) for rule in results.slo.rules] if results.slo else []
    lines.append(f"verdict: {results.verdict.replace('_', ' ')} ({', '.join(str(path) for path in paths)})")
    return "\n".join(lines)


def _kind_lines(kind: Kind, found: KindFigures) -> list[str]:
    if found.latency is None:
        return [f"  {kind:<10} nothing was answered as asked"]
    rates = {
        "requests/s": found.requests_per_s,
        "pairs/s": found.pairs_per_s,
        "documents/s": found.documents_per_s,
        "tokens/s": found.tokens_per_s,
    }
    shown = ", ".join(f"{rate:.1f} {unit}" for unit, rate in rates.items() if rate is not None)
    lines = [f"  {kind:<10} {shown}; latency p50 {found.latency.p50:.0f} ms, p95 {found.latency.p95:.0f} ms"]
    if found.ttft and found.itl:
        lines.append(f"  {'':<10} first text p95 {found.ttft.p95:.0f} ms, between texts p95 {found.itl.p95:.0f} ms")
    return lines


def _rule_line(rule: RuleOutcome) -> str:
    limits = (("at least", rule.min), ("at most", rule.max))
    bounds = ", ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)
    value = rule.note if rule.value is None else f"{rule.value:.4g}"
    return f"  {'held    ' if rule.ok else 'VIOLATED'} {rule.metric}: {value} ({bounds})"
