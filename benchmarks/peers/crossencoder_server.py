"""sentence-transformers' CrossEncoder behind FastAPI: what people write first. No batching across requests.

Runs in .tools/peers/crossencoder: `uvicorn crossencoder_server:app --workers N`; folder in CHECKPOINT, threads in
THREADS.
A worker computes one request at a time on its threads; `predict` blocks the loop, which has nothing else to do.
"""

from __future__ import annotations

import os

import torch
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import CrossEncoder

torch.set_num_threads(int(os.environ["THREADS"]))
model = CrossEncoder(os.environ["CHECKPOINT"], device="cpu")
model.predict([("warm", "up")])
app = FastAPI()


class Request(BaseModel):
    text_a: str
    text_b: str


@app.post("/score")
async def score(request: Request) -> dict[str, float]:
    """One pair in, its sigmoid out."""
    return {"score": float(model.predict((request.text_a, request.text_b), show_progress_bar=False))}


@app.get("/health")
async def health() -> dict[str, str]:
    """Up when the model is."""
    return {"status": "ok"}
