"""Text to blocks: no token is lost, every token but a block's first is predicted, any text can be written."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import InvalidInput
from training.generation_task import IGNORED, blocks, prepare_generation, token_stream, unigram_perplexity
from training.model_section import CausalLM
from training.vocabulary import END, train_bpe

pytestmark = pytest.mark.unit
TEXT = "the quick brown fox jumps over the lazy dog\n" * 40
SMALL = {"vocab_size": 280, "max_tokens": 16, "layers": 1, "hidden": 16, "heads": 2}


@given(length=st.integers(1, 200), size=st.integers(2, 40))
def test_blocks_hold_every_token_and_none_is_alone(length: int, size: int) -> None:
    cut = [row["ids"] for row in blocks(np.arange(length), size)]
    # Where the last block borrows a token, that one stands twice.
    assert sorted(set(np.concatenate(cut).tolist())) == list(range(length))
    assert sum(map(len, cut)) == length
    assert max(map(len, cut)) <= size
    assert length < 2 or min(map(len, cut)) >= 2 or size == 2


def test_any_text_survives_the_tokenizer() -> None:
    tokenizer = train_bpe([TEXT], 280, 16)
    assert len(tokenizer) <= 280
    assert (tokenizer.eos_token, tokenizer.bos_token) == (END, END)
    for text in ("the fox", "  two  spaces\n\n", "żółć 猫 🦊", "\x00\ttab"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("the quick brown fox")) < 12


def test_the_tokenizer_is_a_function_of_the_text() -> None:
    made = {train_bpe([TEXT, TEXT[::-1]], 300, 16).backend_tokenizer.to_str() for _ in range(3)}
    assert len(made) == 1


def test_documents_are_parted_by_the_end_token() -> None:
    tokenizer = train_bpe([TEXT], 280, 16)
    end = tokenizer.eos_token_id
    stream = token_stream(tokenizer, ["the fox", "a dog"], end)
    assert stream[0] == end
    assert stream[-1] == end
    assert int((stream == end).sum()) == 3
    assert tokenizer.decode(stream[1:-1]).split(END) == ["the fox", "a dog"]


def test_a_task_pads_with_what_no_loss_sees() -> None:
    task = prepare_generation(CausalLM(**SMALL), None, ([TEXT], [TEXT[:60]]))
    batch = task.collate([{"ids": np.arange(5)}, {"ids": np.arange(3)}])
    assert batch["input_ids"].shape == (2, 5)
    assert batch["labels"].tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, IGNORED, IGNORED]]
    with torch.inference_mode():
        task.model.eval()
        alone = task.model(**task.collate([{"ids": np.arange(3)}])).logits
        padded = task.model(input_ids=batch["input_ids"]).logits[1:, :3]
    torch.testing.assert_close(alone, padded)
    assert (task.best, task.higher_is_better) == ("loss", False)


def test_too_little_text_is_refused() -> None:
    with pytest.raises(InvalidInput, match="less than one block"):
        prepare_generation(CausalLM(**(SMALL | {"max_tokens": 4096})), None, ([TEXT], [TEXT]))


def test_unigram_perplexity_by_hand() -> None:
    tokenizer = train_bpe(["ab" * 50], 257, 16)  # bytes only: nothing is merged
    a, b = (tokenizer.encode(letter)[0] for letter in "ab")
    counts = {a: 31, b: 11, tokenizer.eos_token_id: 3}  # 30 a, 10 b, 2 ends, each plus one
    total = 42 + len(tokenizer)
    expected = np.exp(-np.mean([np.log(counts[token] / total) for token in (0, a, b, 0)]))
    assert tokenizer.eos_token_id == 0
    assert unigram_perplexity(tokenizer, ["a" * 30 + "b" * 10], ["ab"]) == pytest.approx(float(expected))
