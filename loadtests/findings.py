"""What a reader must know before trusting or comparing the figures of a run, in plain sentences."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from urllib.parse import urlsplit

from loadtests.metrics import Figures
from loadtests.results import Ending
from loadtests.settings import RunSettings

BUSY_CPU_SHARE = 0.85
LATE_MS = 10.0
ENOUGH_FOR_P99 = 100


def findings(settings: RunSettings, figures: Figures, ending: Ending, measured_s: float) -> Iterator[str]:
    """Yield one sentence for each thing that limits what the figures say."""
    totals, generator = figures.totals, figures.generator
    if ending is Ending.INTERRUPTED:
        given_up = f"{totals.unfinished} requests were given up"
        yield f"The run was interrupted after {measured_s:.1f} of {settings.duration_s:g} s; {given_up}."
    if ending is Ending.MAX_REQUESTS:
        limit = f"The limit of {settings.max_requests} requests"
        yield f"{limit} ended the measurement after {measured_s:.1f} of {settings.duration_s:g} s."
    if totals.shed.without_retry_after:
        shed = totals.shed
        yield f"{shed.without_retry_after} of {shed.count} answers 429 carried no readable Retry-After header."
    for kind, found in figures.kinds.items():
        if not found.requests:
            yield f"{kind}: no request was measured."
        elif not found.ok:
            yield f"{kind}: none of {found.requests} requests was answered as asked."
        elif found.ok < ENOUGH_FOR_P99:
            yield f"{kind}: {found.ok} answers are few; p99 is little more than the slowest of them."
        if found.tokens_per_event is not None and found.tokens_per_event > 1.1:
            yield (
                f"{kind}: an event carries {found.tokens_per_event:.1f} tokens on average, so a gap between events is "
                "not the time of one token; compare tpot instead."
            )
    if generator.cpu_share is not None and generator.cpu_share > BUSY_CPU_SHARE:
        yield (
            f"The load generator used {generator.cpu_share:.0%} of a core: it may be the limit itself; "
            "use fewer users, or several runs on several machines."
        )
    if generator.loop_lag is not None and generator.loop_lag.p95 > LATE_MS:
        late = f"up to {generator.loop_lag.p95:.0f} ms late (p95)"
        yield f"The load generator's timers fired {late}: times here can be too long by that much."
    if _is_loopback(settings.host):
        yield f"Server and load generator share one machine and its {generator.cores} cores."


def _is_loopback(host: str) -> bool:
    name = urlsplit(host).hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
