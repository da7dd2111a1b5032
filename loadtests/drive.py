"""Runs Locust inside this process: start the users, warm up, measure, drain, stop.

Requests are measured when they start inside the window; those still under way at its end are awaited, so that the
slowest are not the ones left out. Requests that were under way from before the window until after it are measured too.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import gevent
from gevent.event import Event
from locust.env import Environment

from loadtests.errors import GeneratorFault
from loadtests.progress import Progress
from loadtests.results import Ending
from loadtests.users import USER_CLASSES, Job

POLL_S = 0.1
LAG_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class Drive:
    """How the measurement went, beside what the ledger holds."""

    ending: Ending
    opened_at: float
    measured_s: float
    cpu_share: float | None
    lags_ms: tuple[float, ...]


def drive(job: Job, progress: Progress) -> Drive:
    """Run the users of a job to the end of its time, its number of requests, or Ctrl-C. Raises GeneratorFault."""
    bound = [
        type(base.__name__, (base,), {"job": job, "fixed_count": job.settings.users[kind]})
        for kind, base in USER_CLASSES.items()
        if kind in job.settings.users
    ]
    # A user that breaks ends; caught by Locust it would break again at once, and flood the log until the run is over.
    environment = Environment(user_classes=bound, host=job.settings.host, stop_timeout=0, catch_exceptions=False)
    spawned = Event()
    environment.events.spawning_complete.add_listener(lambda **_: spawned.set())
    runner = environment.create_local_runner()
    faults: list[BaseException] = []
    with _interruption() as interrupted:

        def stop_on_fault(exception: BaseException, **_: object) -> None:
            faults.append(exception)
            interrupted.set()

        environment.events.user_error.add_listener(stop_on_fault)
        runner.start(job.settings.total_users, spawn_rate=job.settings.spawn_rate)
        gevent.wait([spawned, interrupted], count=1)
        interrupted.wait(job.settings.warm_up_s)
        outcome = _measure(job, progress, interrupted)
        _drain(job, progress, interrupted)
        runner.quit()
    if faults:
        raise GeneratorFault(f"a simulated user failed: {faults[0]!r}") from faults[0]
    return replace(outcome, ending=Ending.INTERRUPTED) if interrupted.is_set() else outcome


def _measure(job: Job, progress: Progress, interrupted: Event) -> Drive:
    window, duration_s = job.ledger.window, job.settings.duration_s
    if interrupted.is_set():
        window.close(time.perf_counter())
        return Drive(Ending.INTERRUPTED, 0.0, 0.0, None, ())
    lags_ms: list[float] = []
    lag_meter = gevent.spawn(_measure_lag, lags_ms)
    opened_at, cpu_before_s = time.perf_counter(), time.process_time()
    window.open(opened_at)
    while not window.closed and not interrupted.is_set():
        elapsed_s = time.perf_counter() - opened_at
        if elapsed_s >= duration_s:
            break
        progress.show(elapsed_s, duration_s, job.ledger.observations)
        interrupted.wait(min(POLL_S, duration_s - elapsed_s))
    ending = Ending.MAX_REQUESTS if window.closed else Ending.DURATION
    cpu_s, now = time.process_time() - cpu_before_s, time.perf_counter()
    window.close(now)
    lag_meter.kill()
    return Drive(ending, opened_at, window.length_s(now), cpu_s / (now - opened_at), tuple(lags_ms))


def _drain(job: Job, progress: Progress, interrupted: Event) -> None:
    """Wait for the requests that are still under way; each ends by its own timeout at the latest."""
    if job.ledger.under_way and not interrupted.is_set():
        progress.say(f"waiting for {job.ledger.under_way} requests still under way")
    while job.ledger.under_way and not interrupted.is_set():
        interrupted.wait(POLL_S)


def _measure_lag(lags_ms: list[float]) -> None:
    while True:
        before = time.perf_counter()
        gevent.sleep(LAG_EVERY_S)
        lags_ms.append(max(0.0, (time.perf_counter() - before - LAG_EVERY_S) * 1000))


@contextmanager
def _interruption() -> Iterator[Event]:
    """Yield an event that the first Ctrl-C or SIGTERM sets; a second one ends the process at once."""
    event = Event()
    handlers: list[Any] = []

    def on_signal() -> None:
        event.set()
        for handler in handlers:
            handler.cancel()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    handlers += [gevent.signal_handler(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield event
    finally:
        for handler in handlers:
            handler.cancel()
