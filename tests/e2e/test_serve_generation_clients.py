"""The clients that people use, as they are, against a served language model; and lm-evaluation-harness, whose figures
must be transformers' own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
import torch
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from langchain_openai import OpenAI as LangchainOpenAI
from pydantic import BaseModel, Field
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from runtime.backends.fake import END, VOCABULARY, byte_tokenizer
from runtime.store import ModelStore
from tests.e2e.serving_process import Server, serve
from training.checkpoint import adopt_folder
from training.compression.artifact import make_artifact
from training.compression.export import Export
from training.compression.pipeline import folder_context

pytestmark = pytest.mark.e2e
TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]"
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who goes there?"}]
QUESTIONS = [
    {"question": f"{word} is to {other} as", "choices": [f"{word}s", "a hen", f"{other} and more of it"], "answer": 0}
    for word, other in (("cat", "dog"), ("sea", "land"), ("naïve", "Überfluß"), ("x", "y"))
]
TASK = """task: tiny
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}]
metadata: {{version: 1}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random language model with a byte tokenizer and a chat template, as transformers saves it."""
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=VOCABULARY, max_position_embeddings=512, bos_token_id=END, eos_token_id=END, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(pairs=False), eos_token="<end>", bos_token="<end>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home, checkpoint = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("work") / "checkpoint"
    adopt_folder(folder, checkpoint)
    context = folder_context(checkpoint, print)
    make_artifact(Export(tolerance=1e-4), checkpoint, home / "models" / "tiny" / "v1", context)
    ModelStore(home).promote("tiny:v1")
    with serve(home, "service:Generation", SLUICE_THREADS="1") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


# ---------------------------------------------------------------- openai


def test_openai_asks_for_all_that_a_completion_can(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="tiny", prompt=["ab", "abc"], n=2, max_tokens=6, seed=3, echo=True, logprobs=2, temperature=0.9,
        top_p=0.9, frequency_penalty=0.5, presence_penalty=-0.5, logit_bias={"65": 5}, stop=["zzzz"], user="me",
        extra_body={"top_k": 50, "min_p": 0.01, "repetition_penalty": 1.1, "min_tokens": 2, "ignore_eos": True},
    )  # fmt: skip
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    for choice, prompt in zip(answer.choices, ("ab", "ab", "abc", "abc"), strict=True):
        assert choice.text.startswith(prompt)
        assert choice.logprobs is not None
        scores = choice.logprobs
        assert scores.token_logprobs is not None
        assert scores.top_logprobs is not None
        assert scores.tokens is not None
        assert len(scores.tokens) == len(scores.token_logprobs) == len(prompt) + 6
        assert scores.token_logprobs[0] is None
        assert all(2 <= len(top) <= 3 for top in scores.top_logprobs[1:])
        assert all(top[token] == value for token, value, top in list(zip(
            scores.tokens, scores.token_logprobs, scores.top_logprobs, strict=True))[1:])  # fmt: skip
    assert answer.choices[0].text != answer.choices[1].text  # the second one has the next seed
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 24)


def test_openai_scores_a_prompt_alone(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt="abcd", max_tokens=0, echo=True, logprobs=0)
    (choice,) = answer.choices
    assert choice.text == "abcd"
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["a", "b", "c", "d"]
    assert choice.logprobs.text_offset == [0, 1, 2, 3]
    assert client.completions.create(model="tiny", prompt="abcd", max_tokens=0, echo=True).choices[0].text == "abcd"


def test_openai_streams_what_it_gets_whole(client: openai.OpenAI) -> None:
    settings = {"model": "tiny", "messages": CHAT, "max_tokens": 20, "seed": 4, "n": 2, "logprobs": True}
    settings |= {"top_logprobs": 1, "extra_body": {"ignore_eos": True}}
    whole = client.chat.completions.create(**settings)  # type: ignore[call-overload]
    chunks = list(client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True}))  # type: ignore[call-overload]
    for choice in whole.choices:
        own = [each for chunk in chunks for each in chunk.choices if each.index == choice.index]
        assert own[0].delta.role == "assistant"
        assert "".join(each.delta.content or "" for each in own) == choice.message.content
        assert own[-1].finish_reason == choice.finish_reason == "length"
        tokens = [token for each in own if each.logprobs for token in each.logprobs.content]
        assert [token.token for token in tokens] == [token.token for token in choice.logprobs.content]
        assert all(len(token.top_logprobs) == 1 and token.logprob <= 0 for token in tokens)
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens > 0  # the second time, the chat is in the cache
    prompt = "[system] Be brief.\n[user] Who goes there?\n[assistant]"
    assert whole.usage.prompt_tokens == len(prompt)


def test_openai_async_streams_side_by_side(server: Server) -> None:
    async def streams() -> list[str]:
        client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)

        async def one(seed: int) -> str:
            stream = await client.chat.completions.create(
                model="tiny",
                messages=CHAT,
                max_tokens=16,
                seed=seed,
                stream=True,  # type: ignore[arg-type]
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        async with client:
            alone = [await one(seed) for seed in range(4)]
            together = await asyncio.gather(*(one(seed) for seed in range(4)))
        assert alone == list(together)
        return together

    assert len(set(asyncio.run(streams()))) > 1


class Guard(BaseModel):
    """What an answer must be."""

    name: Literal["Bernardo", "Francisco"]
    awake: bool
    hour: int = Field(ge=0, le=23)


def test_openai_parses_what_a_schema_admits(client: openai.OpenAI) -> None:
    settings: dict[str, Any] = {"model": "tiny", "messages": CHAT, "max_completion_tokens": 200}
    for seed in range(4):
        answer = client.chat.completions.parse(**settings, response_format=Guard, seed=seed)
        assert answer.choices[0].finish_reason == "stop"
        assert isinstance(answer.choices[0].message.parsed, Guard)
    with client.chat.completions.stream(**settings, response_format=Guard, seed=1) as stream:
        for _ in stream:
            pass
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Guard)
    schema = {"name": "x", "schema": {"type": "no such type"}}
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**settings, response_format={"type": "json_schema", "json_schema": schema})
    assert refused.value.param == "response_format"


def test_openai_is_told_which_field_is_not_supported(client: openai.OpenAI) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="tiny", messages=CHAT, tools=[tool])  # type: ignore[call-overload]
    assert refused.value.param == "tools"


# ---------------------------------------------------------------- others


def test_langchain(server: Server) -> None:
    settings = {"model": "tiny", "base_url": f"{server.url}/v1", "api_key": "none", "max_retries": 0, "seed": 1}
    chat = ChatOpenAI(**settings, max_tokens=12, temperature=0)
    messages = [SystemMessage("Be brief."), HumanMessage("Who goes there?")]
    answer = chat.invoke(messages)
    assert isinstance(answer.content, str)
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 12
    assert "".join(str(chunk.content) for chunk in chat.stream(messages)) == answer.content
    completion = LangchainOpenAI(**settings, max_tokens=8, temperature=0)
    assert completion.invoke("ab") == "".join(completion.stream("ab")) != ""


def test_litellm(server: Server) -> None:
    program = f"""
import litellm
base = {{"api_base": "{server.url}/v1", "api_key": "none", "max_tokens": 12, "temperature": 0}}
messages = {CHAT!r}
whole = litellm.completion(model="openai/tiny", messages=messages, **base)
text = whole.choices[0].message.content
assert whole.usage.completion_tokens == 12, whole
parts = litellm.completion(model="openai/tiny", messages=messages, stream=True, **base)
assert "".join(part.choices[0].delta.content or "" for part in parts) == text
plain = litellm.text_completion(model="text-completion-openai/tiny", prompt="ab", **base)
assert len(plain.choices[0].text) > 0
print("done")
"""
    # In a process of its own: it sets up logging and exit hooks when it is imported, and asks for its price list.
    environ = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environ, timeout=120)
    assert done.stdout.strip().endswith("done"), done.stdout + done.stderr


def test_lm_eval_finds_the_likelihoods_of_transformers(server: Server, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in QUESTIONS))
    (tmp_path / "tiny.yaml").write_text(TASK.format(file=tmp_path / "questions.jsonl"))
    model = f"model=tiny,base_url={server.url}/v1/completions,tokenizer={folder},tokenizer_backend=huggingface"
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "local-completions", "--tasks", "tiny"]
    command += ["--model_args", f"{model},max_length=256,num_concurrent=2", "--include_path", str(tmp_path)]
    command += ["--output_path", str(tmp_path / "out"), "--log_samples", "--batch_size", "3"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **offline}, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (samples,) = (tmp_path / "out").rglob("samples_tiny_*.jsonl")
    torch_model = LlamaForCausalLM.from_pretrained(folder).eval()
    tokenizer = byte_tokenizer(pairs=False)
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(rows) == len(QUESTIONS)
    for row in rows:
        for choice, [(found, greedy)] in zip(row["doc"]["choices"], row["resps"], strict=True):
            question = row["doc"]["question"]
            context, whole = (tokenizer.encode(text).ids for text in (question, f"{question} {choice}"))
            with torch.no_grad():
                logits = torch_model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
            places = range(len(context) - 1, len(whole) - 1)
            assert float(found) == pytest.approx(sum(float(logits[p, whole[p + 1]]) for p in places), abs=1e-3)
            assert (greedy in (True, "True")) == all(int(logits[p].argmax()) == whole[p + 1] for p in places)
