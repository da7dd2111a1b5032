"""The peers' own environments, .tools/peers/NAME: exactly what peers/NAME.txt lists, made when missing or old."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from demo.commands import StepFailed

LISTS = Path("benchmarks/peers")
FOLDER = Path(".tools/peers")


def environment(name: str, lists: Path = LISTS, folder: Path = FOLDER) -> Path:
    """The folder of the programs of the environment `name`, which is made first where it is not current.

    Raises StepFailed when pip does not make it; what pip said stands above.
    """
    wanted = (lists / f"{name}.txt").read_text(encoding="utf-8")
    home = (folder / name).absolute()
    stamp = home / "installed.txt"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        print(f"  making {folder / name} (about 1 GB, a minute or two)", file=sys.stderr, flush=True)
        shutil.rmtree(home, ignore_errors=True)
        pip = [str(home / "bin/python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        for step in (
            [sys.executable, "-m", "venv", str(home)],
            [*pip, "--no-deps", "--requirement", str(lists / f"{name}.txt")],
        ):
            if subprocess.run(step, check=False).returncode:
                raise StepFailed(f"The environment of {name} could not be made; this failed: {' '.join(step)}")
        stamp.write_text(wanted, encoding="utf-8")  # last, so that an interrupted run is made again
    return home / "bin"
