"""Filters and penalties are those of transformers, draws follow the distribution, settings out of range are named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from runtime.contract import F32, Sampling
from runtime.errors import InvalidInput
from runtime.likelihood import likeliest, score
from runtime.sampling import Sampler, check

pytestmark = pytest.mark.unit
LOGITS = np.log(np.asarray([0.5, 0.25, 0.15, 0.1], np.float32))


def sampler(sampling: Sampling, prompt: tuple[int, ...] = (), size: int = 4, **more: object) -> Sampler:
    return Sampler(sampling, prompt, size, (3,), **more)  # type: ignore[arg-type]


def test_zero_temperature_is_greedy() -> None:
    one = sampler(Sampling(temperature=0))
    assert {one.draw(LOGITS).token for _ in range(20)} == {0}


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0.5, 0.25, 0.15, 0.1]),
        (Sampling(top_k=2), [2 / 3, 1 / 3, 0, 0]),
        (Sampling(top_p=0.75), [2 / 3, 1 / 3, 0, 0]),
        (Sampling(top_p=0.76), [0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0]),
        (Sampling(top_p=0.01), [1, 0, 0, 0]),
        (Sampling(top_k=3, top_p=0.7), [2 / 3, 1 / 3, 0, 0]),
        (Sampling(temperature=0.5), [0.25 / 0.345, 0.0625 / 0.345, 0.0225 / 0.345, 0.01 / 0.345]),
        (Sampling(top_k=99), [0.5, 0.25, 0.15, 0.1]),
        (Sampling(min_p=0.25), [0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0]),
        (Sampling(min_p=1), [1, 0, 0, 0]),
        (Sampling(logit_bias=((0, -100.0), (2, float(np.log(2))))), [0, 0.25 / 0.65, 0.3 / 0.65, 0.1 / 0.65]),
        (Sampling(min_tokens=2), [0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0]),  # 3 is the end token
    ],
)
def test_draws_follow_the_filtered_distribution(sampling: Sampling, expected: list[float]) -> None:
    one = sampler(replace(sampling, seed=3))
    counts = np.bincount([one.draw(LOGITS).token for _ in range(4000)], minlength=4) / 4000
    assert np.abs(counts - expected).max() < 0.03
    assert (counts[np.asarray(expected) == 0] == 0).all()


@settings(deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.5, 1.0, 1.7]),
    st.sampled_from([0, 1, 20, 300]),
    st.sampled_from([0.05, 0.5, 0.9, 0.999, 1.0]),
    st.sampled_from([0.0, 0.05, 0.9]),
    st.sampled_from([0.5, 1.0, 1.3]),
)
def test_the_filtered_distribution_is_that_of_transformers(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float, repetition: float
) -> None:
    random = np.random.default_rng(seed)
    size = 700  # more than two blocks, and not a whole number of them
    logits = (random.normal(size=size) * random.uniform(0.1, 5)).astype(np.float32)
    prompt = random.integers(0, size, 30).tolist()
    chain = [RepetitionPenaltyLogitsProcessor(repetition), TemperatureLogitsWarper(temperature)]
    chain += [TopKLogitsWarper(top_k)] if top_k else []
    chain += [TopPLogitsWarper(top_p), MinPLogitsWarper(min_p)]
    theirs = LogitsProcessorList(chain)(torch.tensor([prompt]), torch.tensor(logits)[None])[0]
    expected = theirs.softmax(-1).double().numpy()
    sampling = Sampling(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition, seed=seed
    )
    one = Sampler(sampling, prompt, size, ())
    row = one._edited(logits)
    weights = one._weights(row, row.max()).astype(np.float64)
    assert np.abs(weights / weights.sum() - expected).max() < 1e-5
    assert all(weights[one.draw(logits).token] > 0 for _ in range(20))


def test_a_draw_at_either_end_of_the_mass_is_a_token_that_has_some() -> None:
    class Fixed:
        value = 0.0

        def random(self) -> float:
            return self.value

    logits = np.full(1000, -np.inf, np.float32)
    logits[[300, 301, 700]] = 0.0
    one = Sampler(Sampling(), (), 1000, ())
    one._random = Fixed()  # type: ignore[assignment]
    for value, token in ((0.0, 300), (0.3333, 300), (0.3334, 301), (0.6667, 700), (1 - 2**-53, 700), (1.0, 700)):
        Fixed.value = value
        assert one.draw(logits).token == token


def test_penalties_are_of_what_was_said() -> None:
    flat = np.zeros(4, np.float32)
    one = sampler(Sampling(temperature=0, presence_penalty=0.5, frequency_penalty=0.4), prompt=(0, 0, 1))
    edited: list[F32] = []
    for token in (1, 1, 2):
        edited.append(one._edited(flat))
        one.accept(token)
    edited.append(one._edited(flat))
    # OpenAI's: of the text, not of the prompt; presence once, frequency each time.
    assert np.allclose(edited, [[0, 0, 0, 0], [0, -0.9, 0, 0], [0, -1.3, 0, 0], [0, -1.3, -0.9, 0]])
    assert not flat.any()  # the model's own row stays


def test_a_repeated_token_is_penalised_from_the_prompt_on() -> None:
    one = sampler(Sampling(temperature=0, repetition_penalty=2.0), prompt=(0,))
    one.accept(1)
    assert np.allclose(one._edited(np.asarray([1, -1, 1, -1], np.float32)), [0.5, -2, 1, -1])


def test_no_end_token_before_min_tokens() -> None:
    logits = np.asarray([0, 0, 0, 9], np.float32)
    one = sampler(Sampling(temperature=0, min_tokens=2))
    for expected in (0, 0, 3):
        token = one.draw(logits).token
        assert token == expected
        one.accept(token)


def test_log_probabilities_are_the_models_own() -> None:
    sampling = Sampling(temperature=0.1, top_k=1, logit_bias=((2, 100.0),), logprobs=3)
    found = sampler(sampling).draw(LOGITS + 5)
    assert found.token == 2
    assert found.logprob == pytest.approx(np.log(0.15), abs=1e-6)
    assert [token for token, _ in found.likeliest] == [0, 1, 2]
    assert np.exp([value for _, value in found.likeliest]) == pytest.approx([0.5, 0.25, 0.15], abs=1e-6)


def test_of_equally_likely_tokens_the_first_are_reported() -> None:
    row = np.zeros(600, np.float32)
    assert [token for token, _ in likeliest(row, 0.0, 5)] == [0, 1, 2, 3, 4]


def test_scores_are_those_of_torch() -> None:
    logits = np.random.default_rng(4).normal(size=(9, 500), scale=4).astype(np.float32)
    tokens = list(range(9))
    values, best = score(logits, tokens, 2)
    reference = torch.tensor(logits).double().log_softmax(-1)
    assert np.allclose(values, reference[range(9), tokens].numpy(), atol=1e-5)
    assert np.allclose([[value for _, value in row] for row in best], reference.topk(2).values.numpy(), atol=1e-5)


def test_the_sequences_of_a_request_differ_and_repeat() -> None:
    flat = np.zeros(400, np.float32)
    texts = []
    for index in (0, 1, 0):
        one = Sampler(Sampling(seed=7), (), 400, (), index=index)
        texts.append([one.draw(flat).token for _ in range(20)])
    assert texts[0] == texts[2] != texts[1]
    other = Sampler(Sampling(seed=8), (), 400, ())
    assert [other.draw(flat).token for _ in range(20)] == texts[1]


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_logits_without_a_largest_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="largest of the logits"):
        sampler(Sampling()).draw(np.full(4, value, np.float32))


class Odd:
    """A constraint: token 1 or 3 comes next, until three were said."""

    def __init__(self) -> None:
        self.said: list[int] = []

    @property
    def finished(self) -> bool:
        return len(self.said) == 3

    def mask(self, logits: F32) -> None:
        logits[::2] = -np.inf

    def accept(self, token: int) -> None:
        self.said.append(token)


def test_a_constraint_decides_what_may_come() -> None:
    constraint = Odd()
    one = Sampler(Sampling(temperature=2, seed=1, logit_bias=((0, 100.0),)), (), 4, (), constraint=constraint)
    while not one.finished:
        one.accept(one.draw(LOGITS).token)
    assert len(constraint.said) == 3
    assert set(constraint.said) <= {1, 3}


@pytest.mark.parametrize(
    ("sampling", "name"),
    [
        (Sampling(max_tokens=0), "max_tokens"),
        (Sampling(max_tokens=-1, prompt_logprobs=0), "max_tokens"),
        (Sampling(min_tokens=17), "min_tokens"),
        (Sampling(temperature=-1), "temperature"),
        (Sampling(temperature=float("nan")), "temperature"),
        (Sampling(top_k=-1), "top_k"),
        (Sampling(top_p=0), "top_p"),
        (Sampling(min_p=1.1), "min_p"),
        (Sampling(repetition_penalty=0), "repetition_penalty"),
        (Sampling(presence_penalty=2.1), "presence_penalty"),
        (Sampling(frequency_penalty=float("nan")), "frequency_penalty"),
        (Sampling(logit_bias=((4, 1.0),)), "logit_bias"),
        (Sampling(logit_bias=((3, 101.0),)), "logit_bias"),
        (Sampling(logit_bias=((3, 1.0),) * 1025), "logit_bias"),
        (Sampling(seed=-1), "seed"),
        (Sampling(stop=("",)), "stop"),
        (Sampling(stop=("a",) * 5), "stop"),
        (Sampling(logprobs=21), "logprobs"),
        (Sampling(prompt_logprobs=-1), "prompt_logprobs"),
        (Sampling(schema="{}", min_tokens=1), "min_tokens"),
        (Sampling(schema="{}", ignore_eos=True), "ignore_eos"),
        (Sampling(schema="{}", stop=("}",)), "stop"),
    ],
)
def test_a_setting_out_of_range_is_named(sampling: Sampling, name: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{name} ") as caught:
        check(sampling, 4)
    assert caught.value.param == name


def test_the_widest_settings_are_let_through() -> None:
    check(Sampling(max_tokens=0, prompt_logprobs=20), 4)
    check(Sampling(min_tokens=16, logit_bias=((3, -100.0),), logprobs=0, seed=2**63 - 1, ignore_eos=True), 4)
