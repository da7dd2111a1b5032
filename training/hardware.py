"""The machine that a run is made on, as its record names it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Hardware(BaseModel):
    """What the figures of a run depend on besides its settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    cpu: str
    cores: int  # that this process may use
    memory_bytes: int
    gpu: str | None = None
    gpu_memory_bytes: int | None = None


def this_machine() -> Hardware:
    """Look at the machine. The GPU is the one that a training would take."""
    import torch

    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return Hardware(
        cpu=_cpu_model(Path("/proc/cpuinfo")),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpu=gpu.name if gpu else None,
        gpu_memory_bytes=gpu.total_memory if gpu else None,
    )


def _cpu_model(cpuinfo: Path) -> str:
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
