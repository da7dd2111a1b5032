"""What a sentence-transformers folder says beside its network: limit, lower case, prompts, which likeness it means.

Reads that library's JSON files; the library is not needed. The network itself is models/bi_encoder.py.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tokenizers import normalizers
from transformers import MODEL_FOR_MASKED_LM_MAPPING, PretrainedConfig

from models import bi_encoder
from models.positions import usable_positions
from models.sequence_encoder import SequenceConfig
from runtime.errors import InvalidInput
from runtime.text import load_tokenizer

SETTINGS = "sentence_bert_config.json"
CONVENTIONS = "config_sentence_transformers.json"


def is_sentence_folder(directory: Path) -> bool:
    """Whether it says of itself that it is one."""
    return (directory / bi_encoder.MODULES_FILE).is_file()


def check_encoder(config: PretrainedConfig, directory: Path) -> None:
    """Raises InvalidInput for a network that does not look at both sides of a token, such as a causal one."""
    known = any(kind in MODEL_FOR_MASKED_LM_MAPPING for kind in type(config).__mro__)
    if not (known or isinstance(config, SequenceConfig)) or config.is_encoder_decoder:
        raise InvalidInput(f"{directory} holds a {config.model_type} model; a bi-encoder needs an encoder (BERT, …).")


def read_head(directory: Path) -> bi_encoder.Head:
    """What comes behind the encoder. Raises InvalidInput for what is not supported: a module, a pooling, a prompt that
    belongs to every text, a likeness other than cosine."""
    try:
        head = bi_encoder.read_head(directory)
    except ValueError as error:
        raise InvalidInput(str(error)) from None
    conventions = _read(directory / CONVENTIONS)
    prompt = (conventions.get("prompts") or {}).get(conventions.get("default_prompt_name"))
    if prompt:
        raise InvalidInput(f"{directory} puts {prompt!r} before every text (default_prompt_name); not supported.")
    likeness = conventions.get("similarity_fn_name") or "cosine"
    # Of vectors of length 1 the dot product is the cosine.
    if likeness != "cosine" and not (likeness == "dot" and head.normalized):
        raise InvalidInput(f"{directory} compares by {likeness} (similarity_fn_name); only cosine is supported.")
    return head


def copy_modules(source: Path, directory: Path) -> None:
    """Copy what describes the head, with its weights, from a sentence-transformers folder into `directory`."""
    for name in (bi_encoder.MODULES_FILE, SETTINGS, CONVENTIONS):
        if (source / name).is_file():
            shutil.copyfile(source / name, directory / name)
    for module in json.loads((source / bi_encoder.MODULES_FILE).read_text(encoding="utf-8")):
        for name in ("config.json", "model.safetensors"):
            path = source / module["path"] / name
            if module["path"] and path.is_file():
                (directory / module["path"]).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, directory / module["path"] / name)


def max_tokens(config: PretrainedConfig, directory: Path) -> int:
    """The longest text: `max_seq_length`, else the tokenizer's limit, and no more than there are positions."""
    given = _read(directory / SETTINGS).get("max_seq_length")
    given = given or _read(directory / "tokenizer_config.json").get("model_max_length")
    return min(int(given), usable_positions(config)) if given else usable_positions(config)


def apply_lower_case(directory: Path) -> None:
    """Make `tokenizer.json` lower texts where the folder asks for it (`do_lower_case`) and it does not yet."""
    if not _read(directory / SETTINGS).get("do_lower_case"):
        return
    path = directory / "tokenizer.json"
    tokenizer = load_tokenizer(path)
    there = tokenizer.normalizer
    if there is not None and there.normalize_str("A") == "a":
        return
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *([there] if there else [])])
    tokenizer.save(str(path))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise InvalidInput(f"{path} holds no object.")
    return found
