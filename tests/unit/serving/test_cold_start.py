"""What a start must not pay for: the process that starts the workers only looks at the service."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[3]
NOT_WITH_THE_SERVICE = ("fastapi", "onnxruntime", "torch", "transformers", "prometheus_client", "aiohttp")


def test_the_service_is_looked_at_without_what_answers_requests() -> None:
    code = f"import sys, service; print(*sorted(sys.modules.keys() & set({NOT_WITH_THE_SERVICE})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
