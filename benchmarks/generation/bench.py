"""What every section about generation is given."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.arena import Running
from benchmarks.drivers import driver
from benchmarks.figures import Result
from benchmarks.generation.contestants import MARK, Ask
from benchmarks.generation.models import Models
from benchmarks.generation.prompts import Prompts
from benchmarks.generation.timings import Timing, timing


@dataclass(frozen=True, slots=True)
class GenerationBench:
    """`models`: for speed; `trained`: the training run of the model whose quality is measured, with fp32/ and int8/.
    `seconds`: of each window that is not a number of tokens. `peers`: whether others are measured too. `scratch`: for
    files of this run alone."""

    models: Models
    trained: Path
    prompts: Prompts
    rounds: int
    seconds: float
    overload_s: float
    peers: bool
    scratch: Path

    def source(self) -> Result:
        """What was measured, for the result files."""
        return {"model": ", ".join(self.models.names), "shape": list(self.models.shape) or "124M parameters"}


@dataclass(frozen=True, slots=True)
class Request:
    """`after_s`: due so long after the client's request before it has ended, or after the beginning."""

    ask: Ask
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Played:
    """What the driver saw of all requests, in the order in which they began."""

    timings: list[Timing]
    driver_cpu_share: float

    def of(self, client: int) -> list[Timing]:
        """The requests of one client."""
        return [each for each in self.timings if each.client == client]


def play(running: Running, clients: Sequence[Sequence[Request]], scratch: Path, seconds: float = 60.0) -> Played:
    """Let clients stream from a server; none begins a request after `seconds`. Raises DriverFailed."""
    body = running.contestant.body
    lines = [[{"after_s": each.after_s, "body": body(each.ask)} for each in client] for client in clients]
    path = scratch / "clients.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    told = driver("generation.streams", running.url, path, seconds=seconds, mark=MARK)
    return Played([timing(each) for each in told["exchanges"]], told["driver_cpu_share"])
