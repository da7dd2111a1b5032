"""The engine on real graphs: what transformers says, whoever else is served, whatever is cached, however it is cut."""

from __future__ import annotations

import queue
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from runtime.backends.fake import byte_tokenizer
from runtime.contract import Event, Finish, PromptScores, Sampling, Token
from runtime.generation import GenerationEngine
from runtime.load import load_engine
from tests.integration.generation_contract import LIMITS, GenerationEngineContract
from tests.integration.generation_contract import SLOTS as CONTRACT_SLOTS
from training.checkpoint import adopt_folder
from training.compression.artifact import make_artifact
from training.compression.export import Export
from training.compression.int8 import Int8
from training.compression.pipeline import folder_context

pytestmark = pytest.mark.integration
STORIES = Path(__file__).parents[2] / "training/samples/stories260k"
VOCABULARY, CONTEXT, SLOTS = 258, 128, 4
MODELS: dict[str, Any] = {
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(n_layer=2, n_embd=64, n_head=4, vocab_size=VOCABULARY, n_positions=CONTEXT, eos_token_id=256)
    ),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=CONTEXT, vocab_size=VOCABULARY, eos_token_id=256, bos_token_id=256,
        )
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=list(MODELS))
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model as transformers folder, fp32 and int8 artifact."""
    torch.manual_seed(5)
    root = tmp_path_factory.mktemp(request.param)
    model = MODELS[request.param]()
    with torch.no_grad():  # a fresh model says one token for ever; this one does not
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.15)
    model.save_pretrained(root / "hub")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(pairs=False), eos_token="<end>")
    tokenizer.save_pretrained(root / "hub")
    adopt_folder(root / "hub", root / "torch")
    context = folder_context(root / "torch", print)
    make_artifact(Export(), root / "torch", root / "fp32", context)
    make_artifact(Int8(tolerance=2.0), root / "fp32", root / "int8", context)
    return root


def load(directory: Path, slots: int = SLOTS) -> GenerationEngine:
    engine = load_engine(directory, slots=slots, threads=2)
    assert isinstance(engine, GenerationEngine)
    return engine


class TestOnnx(GenerationEngineContract):
    @pytest.fixture
    def engine(self, root: Path) -> Iterator[GenerationEngine]:
        engine = load_engine(root / "fp32", slots=CONTRACT_SLOTS, limits=LIMITS, threads=1)
        assert isinstance(engine, GenerationEngine)
        yield engine
        engine.close()


def submit(engine: GenerationEngine, prompt: list[int], sampling: Sampling, n: int = 1) -> queue.SimpleQueue[Event]:
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    engine.submit(prompt, sampling, events.put, n=n)
    return events


Story = tuple[list[list[tuple[int, float | None]]], list[Finish]]


def read(events: queue.SimpleQueue[Event], n: int = 1) -> Story:
    """(token, log-probability) of each sequence, and how each ended."""
    texts: list[list[tuple[int, float | None]]] = [[] for _ in range(n)]
    finishes: list[Finish] = []
    while len(finishes) < n:
        event = events.get(timeout=30)
        if isinstance(event, Token):
            texts[event.index].append((event.id, event.logprob))
        elif isinstance(event, Finish):
            finishes.append(event)
        else:
            assert isinstance(event, PromptScores), event
    return texts, finishes


def jobs(seed: int) -> list[tuple[list[int], Sampling, int]]:
    """Requests of all lengths, some with a common beginning, greedy and seeded, of one sequence and of several."""
    chance = random.Random(seed)
    beginning = [chance.randrange(3, 256) for _ in range(40)]
    made = []
    for number in range(14):
        rest = [chance.randrange(3, 256) for _ in range(chance.choice([1, 2, 3, 17, 40]))]
        prompt = [*beginning[: chance.choice([0, 0, 5, 33, 40])], *rest]
        sampling = Sampling(
            max_tokens=chance.choice([1, 5, 20]),
            temperature=chance.choice([0.0, 0.8]),
            top_p=chance.choice([1.0, 0.9]),
            seed=number,
            ignore_eos=True,
            logprobs=0,
        )
        made.append((prompt, sampling, chance.choice([1, 1, 2, 3])))
    return made


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_company_cache_and_chunks_change_nothing_bit_by_bit(root: Path, precision: str) -> None:
    alone: list[Story] = []
    for prompt, sampling, n in jobs(1):
        engine = load(root / precision, slots=n)  # fresh: nothing is cached
        alone.append(read(submit(engine, prompt, sampling, n), n))
        engine.close()
    engine = load(root / precision)
    engine.warm_up()
    for _ in range(2):  # the second time all prompts are known
        waiting = [(submit(engine, *job), job[2]) for job in jobs(1)]
        together = [read(events, n) for events, n in waiting]
        # Log-probabilities as well: not only the tokens are the same, but the logits they were drawn from.
        assert [texts for texts, _ in together] == [texts for texts, _ in alone]
    assert sum(finish.cached_tokens for _, finishes in together for finish in finishes) > 200
    engine.close()


def test_greedy_tokens_in_company_are_those_of_transformers_alone(root: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(root / "hub").eval()
    engine = load(root / "fp32")
    chance = random.Random(2)
    prompts = [[chance.randrange(3, 256) for _ in range(chance.choice([1, 4, 30, 90]))] for _ in range(10)]
    waiting = [
        submit(engine, prompt, Sampling(max_tokens=chance.choice([3, 8, 16]), temperature=0, ignore_eos=True))
        for prompt in prompts
    ]
    for prompt, events in zip(prompts, waiting, strict=True):
        ids = [token for token, _ in read(events)[0][0]]
        reference = model.generate(
            torch.tensor([prompt]), max_new_tokens=len(ids), do_sample=False, eos_token_id=-1, pad_token_id=0
        )
        assert ids == reference[0, len(prompt) :].tolist()
    engine.close()


def test_scores_of_a_prompt_are_those_of_transformers(root: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(root / "hub").eval()
    engine = load(root / "fp32", slots=2)
    prompt = np.random.default_rng(3).integers(3, 256, 100).tolist()
    scores = submit(engine, prompt, Sampling(max_tokens=0, prompt_logprobs=3)).get(timeout=30)
    assert isinstance(scores, PromptScores)
    with torch.inference_mode():
        reference = model(torch.tensor([prompt])).logits[0].double().log_softmax(-1)
    assert np.allclose(scores.logprobs[1:], reference[range(99), prompt[1:]].numpy(), atol=1e-3)
    best = reference.topk(3)
    assert [[token for token, _ in row] for row in scores.likeliest[1:]] == best.indices[:-1].tolist()
    assert np.allclose(engine.log_probs(prompt), scores.logprobs[1:], atol=1e-6)
    engine.close()


def test_a_published_text_comes_token_for_token_in_company(tmp_path: Path) -> None:
    adopt_folder(STORIES, tmp_path / "torch")
    make_artifact(Export(), tmp_path / "torch", tmp_path / "fp32", folder_context(tmp_path / "torch", print))
    engine = load(tmp_path / "fp32")
    published = (STORIES / "greedy_200.txt").read_text(encoding="utf-8").strip()
    start = engine.encode("")
    others = [submit(engine, [*start, 400 + number], Sampling(max_tokens=60, seed=number)) for number in range(5)]
    events = submit(engine, start, Sampling(max_tokens=200, temperature=0))
    text = ""
    while not isinstance(event := events.get(timeout=30), Finish):
        assert isinstance(event, Token)
        text += event.text
    assert (text + event.text).strip() == published
    for each in others:
        read(each)
    engine.close()
