"""The same cross-encoder with one logit instead of two, because infinity and sentence-transformers take no other kind.

softmax(z)[1] = sigmoid(z1 - z0): the head's two rows become their difference, the encoder is copied bit by bit. The
parity check before every measurement shows that the scores are those of the two-class model.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.numpy import load_file, save_file

WEIGHTS = "model.safetensors"


def write_single_logit(checkpoint: Path, positive: int, directory: Path) -> None:
    """Write the folder that the torch peers load. `positive`: index of the label whose probability is the score.

    Raises ValueError when the checkpoint's head does not have two classes.
    """
    weights = load_file(checkpoint / WEIGHTS)
    rows = weights["classifier.weight"]  # (2, E)
    if len(rows) != 2:
        raise ValueError(f"{checkpoint} has a head of {len(rows)} classes; a matching model has 2.")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][[positive]] - weights[name][[1 - positive]]
    directory.mkdir(parents=True, exist_ok=True)
    save_file(weights, directory / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    config |= {"id2label": {"0": "match"}, "label2id": {"match": 0}}
    del config["problem_type"]
    (directory / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(checkpoint / name, directory / name)
