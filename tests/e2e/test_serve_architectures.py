"""Pair models of our own networks, published as a user does it and served by a real server over HTTP."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from models import encoder
from models.pair_classifier import build
from runtime.contract import Pair, PairResult
from runtime.load import load_engine
from runtime.store import ModelStore
from tests.e2e.serving_process import serve
from tests.unit.training.tiny import encoder_folder
from training.checkpoint import seal_checkpoint
from training.compression.artifact import make_artifact
from training.compression.export import Export
from training.compression.int8 import Int8
from training.compression.pipeline import folder_context
from training.publish import publish_artifact
from training.vocabulary import pair_frame, train_encoder_bpe

pytestmark = pytest.mark.e2e
TEXTS = ["When will my card arrive?", "Has my card been sent?", "我的卡什么时候到？", "Paris"]
PAIRS = [(a, b) for a in TEXTS for b in TEXTS]


def checkpoints(place: Path) -> dict[str, Path]:
    """A BiLSTM from nothing with its own tokenizer, and a TextCNN head on a BERT, both with random weights."""
    torch.manual_seed(3)
    made = {}
    own = train_encoder_bpe(TEXTS * 10, 320, 64)
    bert = encoder_folder(place / "bert")
    sources = {
        "pair-bilstm": (own, "interaction", encoder.create("bilstm", vocab_size=len(own), max_position_embeddings=64)),
        "pair-cnn": (AutoTokenizer.from_pretrained(bert), "cnn", AutoModel.from_pretrained(bert)),
    }
    for name, (tokenizer, head, network) in sources.items():
        frame = pair_frame(tokenizer.backend_tokenizer)
        model = build(network, head=head, head_hidden=16, frame=frame, labels=("0", "1"), dropout=0.1)
        torch.nn.init.normal_(model.classifier.weight, std=0.5)
        model.save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)
        seal_checkpoint(place / name, positive="1")
        made[name] = place / name
    return made


def test_own_networks_are_published_and_score_pairs_over_http(tmp_path: Path) -> None:
    home, expected = tmp_path / "home", {}
    for name, checkpoint in checkpoints(tmp_path).items():
        context = folder_context(checkpoint, print)
        made = tmp_path / f"{name}-fp32"
        make_artifact(Export(), checkpoint, made, context)
        if name == "pair-bilstm":
            make_artifact(Int8(), made, made := tmp_path / f"{name}-int8", context)
        ModelStore(home).promote(publish_artifact(made, name, home, "matching").tag)
        engine = load_engine(checkpoint)
        results = engine.score([Pair(a, b) for a, b in PAIRS])  # type: ignore[union-attr]
        expected[name] = [result.score for result in results if isinstance(result, PairResult)]
        engine.close()
    with serve(home, "service:Matching", SLUICE_THREADS="1", SLUICE_MATCHING_MODEL="pair-bilstm,pair-cnn") as server:
        for name, scores in expected.items():
            body = {"model": name, "pairs": [{"text_a": a, "text_b": b} for a, b in PAIRS]}
            answer = httpx.post(f"{server.url}/v1/match", json=body, timeout=30)
            assert answer.status_code == 200, answer.text
            served = [result["score"] for result in answer.json()["results"]]
            np.testing.assert_allclose(served, scores, atol=0.05)
            assert np.ptp(served) > 0.1
