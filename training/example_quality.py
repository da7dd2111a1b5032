"""How well an encoder-decoder writes targets: what they cost it, and how many it writes by itself."""

from __future__ import annotations

import math
import queue
import sys
from collections.abc import Sequence

from tqdm import tqdm

from runtime.contract import Event, Finish, Sampling, Token
from runtime.errors import SluiceError
from runtime.generation import GenerationEngine
from training.data.examples import Example, shortened


def evaluate_examples(engine: GenerationEngine, rows: Sequence[Example]) -> dict[str, float]:
    """perplexity per token of the targets given their sources, the end included, bits_per_byte, exact_match (the share
    of targets that greedy generation gives), and how many tokens and bytes that is over.

    What is longer than the model takes is cut. Perplexities of different tokenizers do not compare; bits per byte do.
    """
    prompts, texts = example_ids(engine, [row.source for row in rows], [row.target for row in rows])
    # Alike in length, they run and end together.
    order = sorted(range(len(rows)), key=lambda index: len(texts[index]))
    nats, exact = 0.0, 0
    bar = tqdm(total=len(rows), desc="score", unit="row", disable=not sys.stderr.isatty(), leave=False)
    with bar:
        for start in range(0, len(order), engine.slots):
            part = order[start : start + engine.slots]
            asked, wanted = [prompts[index] for index in part], [texts[index] for index in part]
            nats -= sum(map(math.fsum, engine.text_log_probs(asked, wanted)))
            written = _greedy(engine, asked, [len(text) for text in wanted])
            exact += sum(text.strip() == rows[index].target.strip() for index, text in zip(part, written, strict=True))
            bar.update(len(part))
    tokens = sum(map(len, texts))
    size_bytes = sum(len(row.target.encode()) for row in rows)
    return {
        "perplexity": math.exp(nats / tokens),
        "bits_per_byte": nats / math.log(2) / size_bytes,
        "exact_match": exact / len(rows),
        "tokens": float(tokens),
        "bytes": float(size_bytes),
    }


def example_ids(
    engine: GenerationEngine, sources: Sequence[str], targets: Sequence[str]
) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of sources, and of targets with their end but without what the decoder begins with; cut to fit."""
    shape = engine.manifest.causal
    assert shape is not None  # every generation artifact has one
    begun = list(shape.start_token_ids[1:])  # which the tokenizer writes too
    prompts = [shortened(engine.encode(source), engine.context) for source in sources]
    texts = []
    for target in targets:
        ids = engine.encode(target)
        ids = ids[len(begun) :] if begun and ids[: len(begun)] == begun else ids
        texts.append(shortened(ids, engine.room(1)))
    return prompts, texts


def _greedy(engine: GenerationEngine, prompts: Sequence[Sequence[int]], most: Sequence[int]) -> list[str]:
    """The text that follows each prompt, of at most so many tokens, all at once."""
    told = [queue.SimpleQueue[Event]() for _ in prompts]
    for prompt, tokens, events in zip(prompts, most, told, strict=True):
        engine.submit(prompt, Sampling(max_tokens=tokens, temperature=0), events.put)
    return [_text(events) for events in told]


def _text(events: queue.SimpleQueue[Event]) -> str:
    """Raises the error that ends it."""
    text = ""
    while not isinstance(event := events.get(), Finish):
        if isinstance(event, SluiceError):
            raise event
        text += event.text if isinstance(event, Token) else ""
    return text + event.text
