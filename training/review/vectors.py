"""Texts -> unit vectors of an encoder that is left as it is, computed once and kept in a file beside the review.

The encoder must not have been trained on the labels that are to be judged: it would know the wrong ones by heart.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from training.data.pairs import LabelledPair

F32 = npt.NDArray[np.float32]
BATCH_TEXTS = 64


@dataclass(frozen=True, slots=True)
class Texts:
    """The different texts of some rows, in order of their first appearance, and where each row has its two."""

    texts: tuple[str, ...]
    first: npt.NDArray[np.int64]  # (N,) of text_a
    second: npt.NDArray[np.int64]  # (N,) of text_b


def index_texts(rows: Sequence[LabelledPair]) -> Texts:
    """N rows -> their T different texts and two indices a row."""
    places: dict[str, int] = {}
    pairs = [[places.setdefault(text, len(places)) for text in (row.text_a, row.text_b)] for row in rows]
    array = np.asarray(pairs, np.int64).reshape(-1, 2)
    return Texts(tuple(places), array[:, 0], array[:, 1])


def cached_vectors(texts: Sequence[str], encoder: Path, max_tokens: int, cache: Path) -> F32:
    """`encode_texts`, or what an earlier call with the same texts and encoder left in `cache` (.npz)."""
    key = _key(texts, encoder, max_tokens)
    if cache.is_file():
        try:
            with np.load(cache) as kept:
                if str(kept["key"]) == key:
                    return np.asarray(kept["vectors"], np.float32)
        except (OSError, ValueError, KeyError):
            pass  # damaged, or of another version: computed again
    vectors = encode_texts(texts, encoder, max_tokens)
    cache.parent.mkdir(parents=True, exist_ok=True)
    temporary = cache.with_name(f".{cache.name}")
    with temporary.open("wb") as stream:
        np.savez(stream, key=np.array(key), vectors=vectors)
    temporary.replace(cache)
    return vectors


def encode_texts(texts: Sequence[str], encoder: Path, max_tokens: int) -> F32:
    """(T, E): the mean over each text's last hidden states, of length 1; long texts are cut at `max_tokens`.

    Raises OSError, ValueError: `encoder` is no folder of an encoder with a tokenizer.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoder)
    model = AutoModel.from_pretrained(encoder).eval()
    ids = [tokenizer(text, truncation=True, max_length=max_tokens)["input_ids"] for text in texts]
    order = sorted(range(len(texts)), key=lambda place: -len(ids[place]))
    vectors = np.zeros((len(texts), model.config.hidden_size), np.float32)
    starts = range(0, len(order), BATCH_TEXTS)
    for start in tqdm(starts, desc="encode", unit="batch", disable=not sys.stderr.isatty(), leave=False):
        places = order[start : start + BATCH_TEXTS]
        rows = [torch.tensor(ids[place]) for place in places]
        padded = pad_sequence(rows, batch_first=True)  # with id 0: what is masked is not seen
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        with torch.inference_mode():
            hidden = model(input_ids=padded, attention_mask=mask).last_hidden_state  # (B, T, E)
        kept = mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * kept).sum(1) / kept.sum(1).clamp(min=1)
        vectors[places] = torch.nn.functional.normalize(mean, dim=1).numpy()
    return vectors


def _key(texts: Sequence[str], encoder: Path, max_tokens: int) -> str:
    digest = hashlib.sha256(f"{encoder.resolve()} {max_tokens}".encode())
    for file in sorted(encoder.glob("*.safetensors")) + sorted(encoder.glob("*.bin")):
        digest.update(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}".encode())
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()
