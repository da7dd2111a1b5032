"""checkov's own virtual environment: `python -m infra checkov-env` makes it, `find` says where its Python is.

It is apart from ours because checkov pins an older boto3. What is installed is exactly constraints-checkov.txt.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from infra.errors import InfraError

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints-checkov.txt"
FOLDER = ROOT / ".tools" / "checkov"
COMMAND = "python -m infra checkov-env"


def find(folder: Path = FOLDER) -> Path:
    """Return the environment's Python; raises InfraError naming the command that makes it if there is none."""
    if not (folder / "stamp").exists():
        raise InfraError(f"checkov's environment {folder} is missing; make it with: {COMMAND}")
    if not is_current(folder):
        raise InfraError(f"checkov's environment {folder} is older than {CONSTRAINTS.name}; renew it with: {COMMAND}")
    return folder / "bin" / "python"


def is_current(folder: Path = FOLDER) -> bool:
    """Return whether the environment was completed for the constraints as they are now."""
    stamp = folder / "stamp"
    return stamp.exists() and stamp.read_text(encoding="utf-8") == digest()


def digest() -> str:
    """Return the sha256 of the constraints."""
    return hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()


def make(folder: Path = FOLDER) -> None:
    """Make the environment anew; the stamp comes last, so that an interrupted run is made again.

    Raises InfraError if pip fails; what pip said stands above the message.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for step in (
        [sys.executable, "-m", "venv", str(folder)],
        [*pip, "--no-deps", "--requirement", str(CONSTRAINTS)],
    ):
        if subprocess.run(step, check=False).returncode:
            raise InfraError(f"could not make checkov's environment; this failed: {' '.join(step)}")
    (folder / "stamp").write_text(digest(), encoding="utf-8")
