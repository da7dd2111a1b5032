"""Encoders from nothing: padding does not exist for them, both sides of a token count, and Auto classes load them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from models.registry import ARCHITECTURES, builder, register_networks
from models.sequence_encoder import SequenceEncoder

pytestmark = pytest.mark.unit


@pytest.fixture(params=ARCHITECTURES["encoder"])
def encoder(request: pytest.FixtureRequest) -> SequenceEncoder:
    torch.manual_seed(3)
    network: Any = builder("encoder", request.param)
    shape = {"vocab_size": 60, "embedding_size": 12, "hidden_size": 16, "num_hidden_layers": 2}
    return network(network.config_class(**shape)).eval()  # type: ignore[no-any-return]


def hidden(encoder: SequenceEncoder, rows: list[list[int]], width: int, padding: int = 0) -> torch.Tensor:
    ids = torch.tensor([row + [padding] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    with torch.inference_mode():
        return encoder(input_ids=ids, attention_mask=mask).last_hidden_state


def test_padding_and_neighbours_do_not_matter(encoder: SequenceEncoder) -> None:
    rows = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]
    together = hidden(encoder, rows, width=9, padding=33)
    assert together.shape == (3, 9, 16)
    for number, row in enumerate(rows):
        torch.testing.assert_close(together[number, : len(row)], hidden(encoder, [row], len(row))[0])
        assert not together[number, len(row) :].any()


def test_a_token_sees_both_sides(encoder: SequenceEncoder) -> None:
    middle = [hidden(encoder, [row], 5)[0, 2] for row in ([5, 6, 7, 8, 9], [5, 6, 7, 8, 1], [1, 6, 7, 8, 9])]
    assert not torch.allclose(middle[0], middle[1])
    assert not torch.allclose(middle[0], middle[2])


def test_a_folder_gives_it_back(encoder: SequenceEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path)
    register_networks()
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(encoder.config)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert type(loaded) is type(encoder)
    torch.testing.assert_close(hidden(loaded, [[5, 6, 7]], 3), hidden(encoder, [[5, 6, 7]], 3), rtol=0, atol=0)
    assert loaded.get_input_embeddings().weight.shape == (60, 12)
