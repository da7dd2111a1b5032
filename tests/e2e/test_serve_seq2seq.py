"""An encoder-decoder published as a user does it and served by a real server, several requests at once."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from runtime.contract import Finish, Sampling, Token
from runtime.generation import GenerationEngine
from runtime.load import load_engine
from runtime.store import ModelStore
from tests.e2e.serving_process import serve
from tests.unit.training.tiny import seq2seq_folder
from training.publish import main as publish

pytestmark = pytest.mark.e2e
SETTINGS = {"SLUICE_THREADS": "1", "SLUICE_GENERATION_SLOTS": "3"}


def test_sources_are_answered_in_company_as_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("BENTOML_HOME", str(home))
    folder = seq2seq_folder(tmp_path / "hub")
    assert publish([str(folder), "--name", "rewriter", "--precision", "int8"]) == 0
    artifact = ModelStore(home).resolve("rewriter").path
    engine = load_engine(artifact, slots=1, threads=1)
    assert isinstance(engine, GenerationEngine)
    chance = random.Random(4)
    sources = ["".join(chance.choices("abc de", k=chance.randint(1, 60))) for _ in range(12)]
    expected = []
    for number, source in enumerate(sources):
        settings = Sampling(max_tokens=5 + number, temperature=0.7 * (number % 2), seed=number, ignore_eos=True)
        pieces = list(engine.generate(source, settings))
        assert all(isinstance(piece, Token | Finish) for piece in pieces)
        expected.append("".join(piece.text for piece in pieces if isinstance(piece, Token | Finish)))
    transcript = "Be brief.\ntidy me"  # what was said, a message a line
    answer = "".join(
        piece.text
        for piece in engine.generate(transcript, Sampling(max_tokens=9, temperature=0, ignore_eos=True))
        if isinstance(piece, Token | Finish)
    )
    engine.close()

    def asked(url: str, number: int, **more: Any) -> httpx.Response:
        body = {"prompt": sources[number], "max_tokens": 5 + number, "temperature": 0.7 * (number % 2), "seed": number}
        return httpx.post(f"{url}/v1/completions", json=body | {"ignore_eos": True} | more, timeout=60)

    def streamed(url: str, number: int) -> str:
        lines = [line.removeprefix("data: ") for line in asked(url, number, stream=True).text.splitlines() if line]
        return "".join(json.loads(line)["choices"][0]["text"] for line in lines[:-1])

    with serve(home, "service:Generation", **SETTINGS) as server, ThreadPoolExecutor(12) as pool:
        whole = list(pool.map(lambda number: asked(server.url, number), range(12)))
        assert [each.json()["choices"][0]["text"] for each in whole] == expected
        assert list(pool.map(lambda number: streamed(server.url, number), range(12))) == expected
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused")
        chat = client.chat.completions.create(
            model="rewriter",
            messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "tidy me"}],
            max_tokens=9,
            temperature=0,
            extra_body={"ignore_eos": True},
        )
        assert chat.choices[0].message.content == answer
        for more, status, said in (
            ({"echo": True}, 400, "echo is true; this model is an encoder-decoder"),
            ({"prompt": "x" * 65}, 422, "The prompt has 65 tokens; this model reads a source of at most 64"),
            ({"max_tokens": 65}, 422, "max_tokens is 65; this model writes a text of at most 64"),
        ):
            refused = asked(server.url, 0, **more)
            assert refused.status_code == status
            assert said in refused.json()["error"]["message"]
            assert refused.json()["error"]["param"] == next(iter(more))
        assert asked(server.url, 0, prompt="x" * 64, max_tokens=64).status_code == 200
