"""BentoML's own adaptive batching, `batchable=True`, with the very ONNX artifact and tokeniser that ours serves.

Runs in our environment: `bentoml serve benchmarks.peers.bentoml_batchable:Batchable`, artifact directory in ARTIFACT,
intra-op threads in THREADS, workers by BENTOML_CONFIG_OVERRIDES.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import bentoml
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

BATCH = 32


@bentoml.service(logging={"access": {"enabled": False}}, metrics={"enabled": False}, traffic={"timeout": 120})
class Batchable:
    """One method; BentoML collects the rows of several requests into one call of it."""

    def __init__(self) -> None:
        artifact = Path(os.environ["ARTIFACT"])
        manifest = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
        self.positive = manifest["positive_label"]
        self.tokenizer = Tokenizer.from_file(str(artifact / manifest["tokenizer"]))
        self.tokenizer.enable_truncation(manifest["max_tokens"])
        self.tokenizer.enable_padding(pad_id=manifest["pad_token_id"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["THREADS"])
        self.session = onnxruntime.InferenceSession(str(artifact / manifest["graph"]), options)
        self.inputs = {each.name for each in self.session.get_inputs()}
        self.score([["warm", "up"]])

    @bentoml.api(batchable=True, max_batch_size=BATCH, max_latency_ms=60_000)  # type: ignore[untyped-decorator]
    def score(self, pairs: list[list[str]]) -> list[float]:
        """Rows of [text_a, text_b] in, a score each out."""
        encoded = self.tokenizer.encode_batch([tuple(pair) for pair in pairs])
        feeds = {
            "input_ids": np.array([each.ids for each in encoded], np.int64),
            "attention_mask": np.array([each.attention_mask for each in encoded], np.int64),
            "token_type_ids": np.array([each.type_ids for each in encoded], np.int64),
        }
        logits = self.session.run(None, {name: value for name, value in feeds.items() if name in self.inputs})[0]
        odds = np.exp(logits - logits.max(1, keepdims=True))
        scores: list[float] = (odds[:, self.positive] / odds.sum(1)).tolist()
        return scores
