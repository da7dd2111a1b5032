"""A folder of Hugging Face's becomes a published, loadable model in one command; strange folders do not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from runtime.backends.fake import byte_tokenizer, write_fake_artifact
from runtime.contract import Sampling
from runtime.generation import GenerationEngine
from runtime.load import load_engine
from runtime.manifest import read_manifest, verify
from runtime.store import ModelStore
from training.checkpoint import adopt_folder
from training.publish import publish_artifact

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("hub") / "gpt"
    config = GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=258, n_positions=64, eos_token_id=256)
    GPT2LMHeadModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(pairs=False), eos_token="<end>").save_pretrained(folder)
    return folder


def training(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a user types it, in a process of its own (BentoML reads its home when it is imported)."""
    environ = {**os.environ, "BENTOML_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-m", "training", *arguments], capture_output=True, text=True, env=environ, timeout=300
    )


def test_a_folder_is_published_promoted_listed_and_generates(folder: Path, tmp_path: Path) -> None:
    done = training(tmp_path, "publish", str(folder), "--name", "tiny", "--precision", "int8")
    assert done.returncode == 0, done.stderr
    assert "is production of tiny" in done.stdout
    shown = json.loads(training(tmp_path, "models", "show", "tiny", "--json").stdout)
    assert (shown["kind"], shown["precision"], shown["stage"]) == ("generation", "int8", "production")
    assert [step["name"] for step in shown["steps"]] == ["export", "int8"]
    engine = load_engine(Path(shown["path"]))
    assert isinstance(engine, GenerationEngine)
    assert len(list(engine.generate("hello", Sampling(max_tokens=5, temperature=0)))) == 6
    engine.close()
    # BentoML's own tools see it too.
    command = [str(Path(sys.executable).with_name("bentoml")), "models", "get", shown["tag"], "-o", "json"]
    seen = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "BENTOML_HOME": str(tmp_path)})
    assert json.loads(seen.stdout)["labels"]["kind"] == "generation"


def test_a_chat_template_goes_along_wherever_the_folder_keeps_it(folder: Path, tmp_path: Path) -> None:
    template = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    older = tmp_path / "older"
    shutil.copytree(folder, older)
    configuration = json.loads((older / "tokenizer_config.json").read_text())
    several = [{"name": "tools", "template": "none"}, {"name": "default", "template": template}]
    for number, written in enumerate([template, several]):
        (older / "tokenizer_config.json").write_text(json.dumps(configuration | {"chat_template": written}))
        manifest = adopt_folder(older, tmp_path / f"adopted-{number}")
        assert manifest.chat_template == "chat_template.jinja"
        assert (tmp_path / f"adopted-{number}" / manifest.chat_template).read_text() == template
    newer = tmp_path / "newer"
    shutil.copytree(folder, newer)
    (newer / "chat_template.jinja").write_text(template)
    assert training(tmp_path, "publish", str(newer), "--name", "talks").returncode == 0
    published = Path(json.loads(training(tmp_path, "models", "show", "talks", "--json").stdout)["path"])
    assert (published / (read_manifest(published).chat_template or "")).read_text() == template
    assert adopt_folder(folder, tmp_path / "none").chat_template is None


def test_the_same_artifact_twice_is_one_version(tmp_path: Path) -> None:
    write_fake_artifact(tmp_path / "a", "matching")
    for _ in range(2):
        done = training(tmp_path / "home", "publish", str(tmp_path / "a"), "--name", "m")
        assert done.returncode == 0, done.stderr
    assert len(ModelStore(tmp_path / "home").entries("m")) == 1


def test_a_second_version_waits_for_its_promotion(tmp_path: Path) -> None:
    for number, latency_s in enumerate((0.0, 0.1)):
        write_fake_artifact(tmp_path / str(number), "matching", latency_s=latency_s)
        assert training(tmp_path / "home", "publish", str(tmp_path / str(number)), "--name", "m").returncode == 0
    store = ModelStore(tmp_path / "home")
    first, second = store.entries("m")
    assert store.resolve("m").tag == first.tag
    assert second.stages == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--name", "x"], "neither a folder nor a recipe"),
        (["EMPTY", "--name", "x"], "has no config.json"),
        (["FAKE"], "needs --name"),
        (["FAKE", "--name", "Not A Name"], "is not a name"),
        (["FAKE", "--name", "x", "--kind", "generation"], "is of kind matching, not generation"),
        (["BROKEN", "--name", "x"], "altered"),
    ],
)
def test_a_refusal_is_one_line_and_publishes_nothing(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "EMPTY").mkdir()
    for name in ("FAKE", "BROKEN"):
        write_fake_artifact(tmp_path / name, "matching")
    (tmp_path / "BROKEN/fake.json").write_text("{}")
    source = str(tmp_path / arguments[0])
    done = training(tmp_path / "home", "publish", source, *arguments[1:])
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert ModelStore(tmp_path / "home").names() == []


def test_each_home_gets_what_is_published_to_it(tmp_path: Path) -> None:
    """In one process: BentoML itself knows the home that it was first imported with."""
    write_fake_artifact(tmp_path / "model", "matching")
    for home in (tmp_path / "one", tmp_path / "other"):
        entry = publish_artifact(tmp_path / "model", "m", home)
        assert entry.path.is_relative_to(home)
        assert verify(entry.path).kind == "matching"
