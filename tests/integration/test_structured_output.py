"""Structured output by real graphs: whatever a model prefers to say, a completed answer is what its schema admits."""

from __future__ import annotations

import json
import queue
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from runtime.backends.fake import byte_tokenizer
from runtime.contract import Event, Finish, Sampling, Token
from runtime.errors import InvalidInput, SluiceError
from runtime.generation import GenerationEngine
from runtime.load import load_engine
from training.compression.command import compress_folder
from training.compression.settings import Compress

pytestmark = pytest.mark.integration
STORIES = Path(__file__).parents[2] / "training/samples/stories260k"
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 8},
        "mood": {"enum": ["happy", "sad", None]},
        "scores": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3},
        "friend": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/name"}]},
    },
    "required": ["name", "mood", "scores"],
    "additionalProperties": False,
    "$defs": {"name": {"type": "string", "pattern": "^[A-Z][a-z]{1,5}$"}},
}
SCHEMAS: list[dict[str, Any]] = [PERSON, {"type": "string", "maxLength": 6}, {"type": "number"}, {"type": "object"}]


@pytest.fixture(scope="module", params=["gpt2, random", "llama, trained"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = STORIES
    if "gpt2" in request.param:
        torch.manual_seed(3)
        folder = tmp_path_factory.mktemp("gpt2")
        GPT2LMHeadModel(
            GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=258, n_positions=256, eos_token_id=256)
        ).save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(pairs=False), eos_token="<end>").save_pretrained(folder)
    run = tmp_path_factory.mktemp("run")
    made = compress_folder(folder, run, Compress(precisions=("fp32",)), log=lambda line: None)
    engine = load_engine(made["fp32"], slots=4)
    assert isinstance(engine, GenerationEngine)
    yield engine
    engine.close()


def answers(engine: GenerationEngine, n: int, sampling: Sampling) -> list[tuple[str, str]]:
    """Why each of `n` sequences ended, and its text."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    engine.submit(engine.encode("Once"), sampling, events.put, n=n)
    texts: defaultdict[int, str] = defaultdict(str)
    reasons: dict[int, str] = {}
    while len(reasons) < n:
        event = events.get(timeout=60)
        if isinstance(event, SluiceError):
            raise event
        assert isinstance(event, Token | Finish)
        texts[event.index] += event.text
        if isinstance(event, Finish):
            reasons[event.index] = event.reason
    return [(reasons[index], texts[index]) for index in range(n)]


@pytest.mark.parametrize("schema", SCHEMAS, ids=["person", "string", "number", "object"])
def test_every_completed_answer_is_valid(engine: GenerationEngine, schema: dict[str, Any]) -> None:
    ends: Counter[str] = Counter()
    for seed, temperature in enumerate((0.0, 0.5, 1.0, 2.0)):
        sampling = Sampling(max_tokens=160, temperature=temperature, seed=seed * 10, schema=json.dumps(schema))
        for reason, text in answers(engine, 4, sampling):
            ends[reason] += 1
            if reason == "stop":
                jsonschema.validate(json.loads(text), schema)
    if schema is PERSON:
        assert ends == {"stop": 16}


def test_neither_a_bias_nor_a_penalty_brings_back_what_the_schema_forbids(engine: GenerationEngine) -> None:
    bias = tuple((token, 100.0) for token in range(3, 40))
    sampling = Sampling(
        max_tokens=160, schema=json.dumps(PERSON), logit_bias=bias, repetition_penalty=2.0, presence_penalty=2.0,
        frequency_penalty=2.0, top_k=2, top_p=0.5, min_p=0.1, seed=1,
    )  # fmt: skip
    for reason, text in answers(engine, 4, sampling):
        assert reason == "stop"
        jsonschema.validate(json.loads(text), PERSON)


def test_too_few_tokens_cut_the_value(engine: GenerationEngine) -> None:
    ((reason, text),) = answers(engine, 1, Sampling(max_tokens=3, schema=json.dumps(PERSON)))
    assert reason == "length"
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


def test_a_schema_that_cannot_be_kept_is_refused_before_anything_runs(engine: GenerationEngine) -> None:
    with pytest.raises(InvalidInput, match="uniqueItems"):
        answers(engine, 1, Sampling(schema='{"type": "array", "uniqueItems": true}'))
    assert engine.load().queued_items == engine.load().running_items == 0
