"""The GPUs that the settings ask for, tried once before any worker starts: a worker that cannot have its own would be
started again and again."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from runtime.contract import GenerationEngineName
from runtime.errors import DeviceRefused
from runtime.load import check_device, load_engine
from runtime.store import Entry
from serving.settings import Settings, variable


def check_devices(settings: Settings, entries: Sequence[Entry]) -> None:
    """Load the first encoder and the first language model of `entries` on the GPU of every worker.

    Raises DeviceRefused, naming the setting: a device is not there, or cannot run one of the artifacts.
    """
    engine = settings.generation_engine
    try:
        for entry in entries:
            check_device(entry.manifest, settings.device, engine)
        if settings.device == "cpu":
            return
        firsts = {entry.manifest.kind == "generation": entry for entry in reversed(entries)}
        # In processes that end: what CUDA takes of a GPU's memory, it keeps as long as its process lives.
        for entry in firsts.values():
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                for device in dict.fromkeys(settings.devices()):
                    process.submit(_try, entry.path, device, engine).result()
    except BrokenProcessPool:
        raise DeviceRefused(_named(settings, "the process that tried it died; its last words are above.")) from None
    except DeviceRefused as error:
        raise DeviceRefused(_named(settings, error.message)) from None


def _named(settings: Settings, problem: str) -> str:
    return f"{variable('device')} is {settings.device!r}, for {settings.workers} worker(s): {problem}"


def _try(artifact: Path, device: str, engine: GenerationEngineName) -> None:
    load_engine(artifact, device=device, generation_engine=engine).close()
