"""`bentoml build`, and the bento served: from the store, and laid out as in a container."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from runtime.backends.fake import FAKE_DIMENSIONS, write_fake_artifact
from runtime.manifest import Kind
from runtime.store import ModelStore
from tests.e2e.serving_process import BENTOML, ROOT, Server, environment, serve
from training.publish import publish_artifact

pytestmark = pytest.mark.e2e


def publish(home: Path, work: Path, kind: Kind, max_tokens: int) -> str:
    """Publish as people do: what is packed must be a model of BentoML's store."""
    write_fake_artifact(work, kind, max_tokens=max_tokens)
    return ModelStore(home).promote(publish_artifact(work, kind, home).tag).tag


def served(server: Server) -> list[tuple[str, str]]:
    return [(card["id"], card["tag"]) for card in httpx.get(f"{server.url}/v1/models").json()["data"]]


def test_a_bento_serves_what_was_in_production_when_it_was_built(tmp_path: Path) -> None:
    home = tmp_path / "home"
    packed = [
        ("matching", publish(home, tmp_path / "m1", "matching", 128)),
        ("embedding", publish(home, tmp_path / "e1", "embedding", 128)),
        ("generation", publish(home, tmp_path / "g1", "generation", 128)),
    ]
    built = subprocess.run(
        [BENTOML, "build", "--output", "tag"], cwd=ROOT, env=environment(home), capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout + built.stderr
    tag = built.stdout.strip().splitlines()[-1].removeprefix("__tag__:")
    bento = home / "bentos" / tag.replace(":", "/")
    files = {path.relative_to(bento / "src").parts[0] for path in (bento / "src").rglob("*") if path.is_file()}
    assert files == {"service.py", "bentofile.yaml", "serving", "runtime"}
    assert not list(bento.rglob("torch.py"))

    # Production moves on; the bento stays what it is.
    newer = publish(home, tmp_path / "m2", "matching", 64)
    assert newer != packed[0][1]
    with serve(home, tag, cwd=tmp_path) as server:
        assert served(server) == packed
        reply = httpx.post(f"{server.url}/v1/match", json={"pairs": [{"text_a": "a", "text_b": "a"}]})
        assert reply.json()["results"][0]["match"] is True
        reply = httpx.post(f"{server.url}/v1/embeddings", json={"input": ["a", "b"]})
        assert [len(item["embedding"]) for item in reply.json()["data"]] == [FAKE_DIMENSIONS] * 2
        reply = httpx.post(f"{server.url}/v1/completions", json={"prompt": "x", "max_tokens": 3})
        assert reply.json()["usage"]["completion_tokens"] == 3

    # In a container, the models lie inside the bento and there is no store.
    image = tmp_path / "image"
    shutil.copytree(bento, image)
    for _, model in packed:
        place = model.replace(":", "/")
        shutil.copytree(home / "models" / place, image / "models" / place)
    with serve(tmp_path / "nothing", str(image), cwd=tmp_path, SLUICE_MATCHING_MODEL=packed[0][1]) as server:
        assert served(server) == [(packed[0][1], packed[0][1]), *packed[1:]]
        reply = httpx.post(f"{server.url}/v1/match", json={"pairs": [{"text_a": "a", "text_b": "a"}]})
        assert reply.status_code == 200
        reply = httpx.post(f"{server.url}/v1/embeddings", json={"input": "a"})
        assert reply.json()["model"] == "embedding"
