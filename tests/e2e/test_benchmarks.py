"""Sections of the benchmark in tiny form: a real server and real drivers, a fake model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.serving_process import ROOT, environment, publish

pytestmark = pytest.mark.e2e
SHORT = ["--rounds", "1", "--seconds", "0.5", "--overload-seconds", "2"]


def test_sections_measure_what_they_say(tmp_path: Path) -> None:
    publish(tmp_path / "home", "matching", "matching", latency_s=0.02)
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text_a": f"a {number}", "text_b": "b"}) + "\n" for number in range(500)))
    command = [sys.executable, "-m", "benchmarks", "overload", "disconnects", *SHORT]
    done = subprocess.run(
        [*command, "--texts", str(texts), "--out", str(tmp_path / "out")],
        cwd=ROOT,
        env=environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr

    overload: dict[str, Any] = json.loads((tmp_path / "out" / "overload.json").read_text())
    flood = overload["flood"]
    assert (
        flood["sent"] + flood["not_sent"] == sum(flood["statuses"].values()) + flood["unanswered"] + flood["not_sent"]
    )
    assert (
        flood["sent"] > overload["saturated"]["per_s"] * 3
    )  # two seconds at three times that rate, less what was late
    assert flood["statuses"]["200"] > 0
    assert len(overload["rss_mb"]) >= 2
    assert min(overload["rss_mb"]) > 50
    assert overload["model"].startswith("matching:")
    assert overload["texts"]["distinct_pairs"] == 500

    disconnects = json.loads((tmp_path / "out" / "disconnects.json").read_text())
    assert disconnects["left"] > 0
    assert disconnects["drivers"][0]["statuses"].keys() == {"200"}
    # Every answered token was computed, so what was spent on the dead is a share.
    assert 0 <= disconnects["spent_on_the_dead"]["median"] < 1

    assert "3x overload: goodput over saturated throughput" in done.stdout
    assert "not measured: no peers" in done.stdout


TINY = "--layers 1 --hidden 64 --vocab-size 512"


def test_generation_is_measured_on_a_tiny_model(tmp_path: Path) -> None:
    models = ["--generation-models", str(tmp_path / "models"), "--generation-shape", TINY]
    command = [sys.executable, "-m", "benchmarks", "decode", "goodput", "prefix", "generation-overload", *SHORT]
    done = subprocess.run(
        [*command, *models, "--generation-architectures", "gpt2", "--no-peers", "--out", str(tmp_path / "out")],
        cwd=ROOT,
        env=environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr

    def result(section: str) -> dict[str, Any]:
        read: dict[str, Any] = json.loads((tmp_path / "out" / f"{section}.json").read_text())
        return read

    decode = result("decode")
    assert decode["failed"] == {}  # ours in fp32 has continued prompts as the raw loop does
    assert {row["name"] for row in decode["rows"].values()} == {"raw", "sluice"}
    assert all(row["streams"]["8"]["per_s"]["median"] > 0 for row in decode["rows"].values())
    goodput = result("goodput")
    assert goodput["continuous"]["refused"] == 0
    assert goodput["static_batching"]["tokens_per_s"]["median"] > 0
    assert result("prefix")["ratio"]["median"] > 0
    flood = result("generation-overload")["flood"]
    assert set(flood["statuses"]) <= {"200", "429"}
    assert flood["cut"] == 0
    assert (tmp_path / "out" / "decode.png").is_file()
    assert "generation: 1 stream over HTTP" in done.stdout
