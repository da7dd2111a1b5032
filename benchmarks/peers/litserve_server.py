"""LitServe with batching around the same CrossEncoder.

Runs in .tools/peers/litserve: `python litserve_server.py PORT`; folder in CHECKPOINT, limits in BATCH and
BATCH_TIMEOUT_S, torch threads in THREADS.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import litserve
import torch
from sentence_transformers import CrossEncoder


class Score(litserve.LitAPI):
    """decode -> batch -> predict -> unbatch -> encode, as LitServe calls them."""

    def setup(self, device: str) -> None:
        torch.set_num_threads(int(os.environ["THREADS"]))
        self.batch_size = int(os.environ["BATCH"])
        self.model = CrossEncoder(os.environ["CHECKPOINT"], device="cpu")
        self.model.predict([("warm", "up")])

    def decode_request(self, request: dict[str, str]) -> tuple[str, str]:
        return request["text_a"], request["text_b"]

    def predict(self, pairs: list[tuple[str, str]]) -> Any:
        return self.model.predict(pairs, batch_size=self.batch_size, show_progress_bar=False)

    def encode_response(self, score: Any) -> dict[str, float]:
        return {"score": float(score)}


if __name__ == "__main__":
    api = Score(max_batch_size=int(os.environ["BATCH"]), batch_timeout=float(os.environ["BATCH_TIMEOUT_S"]))
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=120)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
