"""The service object without a server, as a script or a notebook would use it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import service
from runtime.backends.fake import TALE, write_fake_artifact
from runtime.store import ModelStore
from serving.schemas import PairIn

pytestmark = pytest.mark.integration


def test_typed_methods_work_in_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("matching", "generation"):
        write_fake_artifact(tmp_path / "models" / kind / "v1", kind)
        ModelStore(tmp_path).promote(f"{kind}:v1")
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    monkeypatch.setenv("SLUICE_ACCESS_LOG", "false")
    instance = service.Sluice()
    try:

        async def use() -> tuple[bool, list[int], str]:
            matched = await instance.match(pairs=[PairIn(text_a="a b", text_b="B a")])
            ranked = await instance.rerank(query="a b", documents=["x", "a b"])
            text = [piece async for piece in instance.generate(prompt="x", max_tokens=5)]
            return matched.results[0].match, [each.index for each in ranked.results], "".join(text)

        assert asyncio.run(use()) == (True, [1, 0], TALE[1:6])
    finally:
        instance.close()


def test_importing_the_services_loads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "nowhere"))
    assert {name for name in ("Matching", "Generation", "Sluice") if getattr(service, name).gate is None} == {
        "Matching",
        "Generation",
        "Sluice",
    }
    assert not (tmp_path / "nowhere").exists()
