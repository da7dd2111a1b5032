"""Encoder-decoders: what transformers says, whoever else is served; published, compressed, refused."""

from __future__ import annotations

import queue
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, MBartConfig, MBartForConditionalGeneration

from models.seq2seq_lm import SUPPORTED
from runtime.backends.fake import END, VOCABULARY
from runtime.backends.onnx_seq2seq import OnnxSeq2Seq
from runtime.backends.torch import TorchSeq2Seq
from runtime.contract import Event, Finish, Sampling, Token
from runtime.errors import DeviceRefused, InvalidInput, TooManyTokens
from runtime.generation import GenerationEngine
from runtime.load import load_engine
from runtime.manifest import read_manifest
from tests.unit.runtime.backend_contract import SourceBackendContract
from tests.unit.training.tiny import seq2seq_folder, t5_folder
from training.checkpoint import adopt_folder
from training.compression.artifact import make_artifact
from training.compression.export import Export
from training.compression.int4 import Int4
from training.compression.int8 import Int8
from training.compression.pipeline import folder_context
from training.compression.prune import Layers
from training.compression.step import ENCODER_GRAPH, GRAPH
from training.seq2seq_writers import SEQ2SEQ_WRITERS

pytestmark = pytest.mark.integration
CONTEXT, SLOTS = 64, 4
# Heads of 8 on one side and of 12 on the other, both padded; several blocks of quantised weights a column; a text that
# is made to begin with a second token, as summarisers are; both forms of T5.
MODELS: dict[str, Callable[[Path], Path]] = {
    "bart": seq2seq_folder,
    "bart-wide": partial(
        seq2seq_folder, d_model=384, encoder_attention_heads=6, decoder_attention_heads=6, scale_embedding=True
    ),
    "bart-forced": partial(seq2seq_folder, forced=257, activation_function="relu"),
    "t5": t5_folder,
    "t5-gated": partial(t5_folder, d_kv=16, d_model=256, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
}


@pytest.fixture(scope="module", params=list(MODELS))
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model as transformers folder, fp32 and int8 artifact."""
    root = tmp_path_factory.mktemp(request.param)
    MODELS[request.param](root / "hub")
    adopt_folder(root / "hub", root / "torch", max_tokens=CONTEXT)
    context = folder_context(root / "torch", print)
    make_artifact(Export(tolerance=1e-4), root / "torch", root / "fp32", context)
    make_artifact(Int8(tolerance=2.0), root / "fp32", root / "int8", context)
    return root


class _Backend(SourceBackendContract):
    vocab_size, graph = VOCABULARY, ""

    @pytest.fixture
    def backend(self, root: Path) -> OnnxSeq2Seq | TorchSeq2Seq:
        directory = root / self.graph
        shape = read_manifest(directory).causal
        assert shape is not None
        if self.graph == "torch":
            return TorchSeq2Seq(directory, shape, slots=3, context=CONTEXT)
        graphs = (directory / ENCODER_GRAPH, directory / GRAPH)
        return OnnxSeq2Seq(*graphs, shape, slots=3, context=CONTEXT, threads=2)


class TestTorch(_Backend):
    graph, tolerance = "torch", 1e-4


class TestFp32(_Backend):
    graph, tolerance = "fp32", 0.0


class TestInt8(_Backend):
    graph, tolerance = "int8", 0.0


def load(directory: Path, slots: int = SLOTS) -> GenerationEngine:
    engine = load_engine(directory, slots=slots, threads=2)
    assert isinstance(engine, GenerationEngine)
    return engine


def submit(engine: GenerationEngine, prompt: list[int], sampling: Sampling, n: int = 1) -> queue.SimpleQueue[Event]:
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    engine.submit(prompt, sampling, events.put, n=n)
    return events


def read(events: queue.SimpleQueue[Event], n: int = 1) -> list[list[tuple[int, float | None]]]:
    """(token, log-probability) of each sequence."""
    texts: list[list[tuple[int, float | None]]] = [[] for _ in range(n)]
    left = n
    while left:
        event = events.get(timeout=60)
        assert isinstance(event, Token | Finish), event
        if isinstance(event, Token):
            texts[event.index].append((event.id, event.logprob))
        left -= isinstance(event, Finish)
    return texts


def jobs(seed: int) -> list[tuple[list[int], Sampling, int]]:
    """Requests of all lengths, greedy and seeded, of one sequence and of several, some with equal sources."""
    chance = random.Random(seed)
    known = [chance.randrange(3, 256) for _ in range(20)]
    made = []
    for number in range(12):
        source = [chance.randrange(3, 256) for _ in range(chance.choice([1, 2, 17, 40, CONTEXT]))]
        sampling = Sampling(
            max_tokens=chance.choice([1, 5, 20]),
            temperature=chance.choice([0.0, 0.8]),
            seed=number,
            ignore_eos=True,
            logprobs=0,
        )
        made.append((known if number % 4 == 3 else source, sampling, chance.choice([1, 1, 2, 3])))
    return made


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_company_changes_nothing_bit_by_bit(root: Path, precision: str) -> None:
    alone = []
    for prompt, sampling, n in jobs(1):
        engine = load(root / precision, slots=n)
        alone.append(read(submit(engine, prompt, sampling, n), n))
        engine.close()
    engine = load(root / precision)
    engine.warm_up()
    for _ in range(2):
        waiting = [(submit(engine, *job), job[2]) for job in jobs(1)]
        assert [read(events, n) for events, n in waiting] == alone
    engine.close()


def test_greedy_tokens_in_company_are_those_of_transformers_alone(root: Path) -> None:
    model = AutoModelForSeq2SeqLM.from_pretrained(root / "hub").eval()
    shape = read_manifest(root / "fp32").causal
    assert shape is not None
    engine = load(root / "fp32")
    chance = random.Random(2)
    prompts = [[chance.randrange(3, 256) for _ in range(chance.choice([1, 4, 30, CONTEXT]))] for _ in range(10)]
    most = [chance.choice([3, 8, 16, engine.room(1)]) for _ in prompts]
    waiting = [
        submit(engine, prompt, Sampling(max_tokens=tokens, temperature=0, ignore_eos=True))
        for prompt, tokens in zip(prompts, most, strict=True)
    ]
    begun = len(shape.start_token_ids)
    for prompt, tokens, events in zip(prompts, most, waiting, strict=True):
        ids = [token for token, _ in read(events)[0]]
        assert len(ids) == tokens
        reference = model.generate(
            torch.tensor([prompt]), max_new_tokens=tokens + begun - 1, do_sample=False, eos_token_id=-1, pad_token_id=0
        )[0].tolist()
        assert reference[:begun] == list(shape.start_token_ids)
        assert ids == reference[begun:]
    engine.close()


def test_a_given_text_costs_what_transformers_says(root: Path) -> None:
    model = AutoModelForSeq2SeqLM.from_pretrained(root / "hub").eval()
    engine = load(root / "fp32", slots=2)
    chance = np.random.default_rng(3)
    prompts = [chance.integers(3, 256, length).tolist() for length in (30, 1, 12)]
    texts = [[*chance.integers(3, 256, length).tolist(), END] for length in (5, 20, 1)]
    shape = engine.manifest.causal
    assert shape is not None
    begun = len(shape.start_token_ids) - 1
    for prompt, text, found in zip(prompts, texts, engine.text_log_probs(prompts, texts), strict=True):
        decoder = torch.tensor([[*shape.start_token_ids, *text[:-1]]])
        with torch.inference_mode():
            logits = model(torch.tensor([prompt]), decoder_input_ids=decoder).logits[0, begun:]
        expected = logits.double().log_softmax(-1)[range(len(text)), text]
        assert np.allclose(found, expected.numpy(), atol=1e-4)
    engine.close()


def test_what_does_not_fit_or_makes_no_sense_is_refused_before_anything_runs(root: Path) -> None:
    engine = load(root / "int8")
    most = engine.room(1)
    for prompt, sampling, error, message in (
        ([5] * (CONTEXT + 1), Sampling(), TooManyTokens, "The prompt has 65 tokens; .* at most 64"),
        ([5], Sampling(max_tokens=most + 1), TooManyTokens, f"max_tokens is {most + 1}; .* at most {most} "),
        ([5], Sampling(prompt_logprobs=0), InvalidInput, "prompt_logprobs: this model is an encoder-decoder"),
    ):
        with pytest.raises(error, match=message):
            engine.submit(prompt, sampling, lambda event: None)
    assert len(read(submit(engine, [5] * CONTEXT, Sampling(max_tokens=most, ignore_eos=True)))[0]) == most
    engine.close()
    with pytest.raises(DeviceRefused, match="encoder-decoder"):
        load_engine(root / "torch", device="cuda", generation_engine="vllm")


def test_steps_are_recorded_and_those_that_do_not_apply_are_refused(root: Path, tmp_path: Path) -> None:
    manifest = read_manifest(root / "int8")
    assert [step.name for step in manifest.steps] == ["export", "int8"]
    assert manifest.kind == "generation"
    assert (manifest.graph, manifest.encoder_graph) == (GRAPH, ENCODER_GRAPH)
    context = folder_context(root / "torch", print)
    with pytest.raises(InvalidInput, match="the step layers is not for these, export, int8 and int4 are"):
        make_artifact(Layers(keep=1), root / "torch", tmp_path / "layers", context)
    int4 = make_artifact(Int4(tolerance=5.0), root / "fp32", tmp_path / "int4", context)
    assert int4.size_bytes < read_manifest(root / "fp32").size_bytes


def test_an_encoder_decoder_that_has_no_graph_writer_is_named(tmp_path: Path) -> None:
    shape = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": VOCABULARY}
    MBartForConditionalGeneration(MBartConfig(**shape)).save_pretrained(tmp_path / "hub")
    with pytest.raises(InvalidInput, match=r"MBartFor.*; supported .* …ForConditionalGeneration of type bart, t5"):
        adopt_folder(tmp_path / "hub", tmp_path / "artifact")


def test_every_encoder_decoder_that_is_loaded_has_a_graph_writer() -> None:
    assert tuple(SEQ2SEQ_WRITERS) == SUPPORTED
