"""A transformers or sentence-transformers folder as an artifact of format "torch": what training makes, and what a
stranger brings."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PretrainedConfig

from models import bi_encoder, seq2seq_lm
from models.pair_classifier import PairClassifierConfig
from models.positions import usable_positions
from models.registry import register_networks
from runtime.errors import InvalidInput
from runtime.manifest import CausalShape, Kind, Manifest, library_version, write_manifest
from training import sentence_folder
from training.causal_graph import GRAPH_WRITERS

LAYERS = ("num_decoder_layers", "decoder_layers", "num_hidden_layers")  # of the decoder, in T5, BART and others
LIBRARIES = ("torch", "transformers", "onnx", "onnxruntime", "onnxscript", "tokenizers")
CHAT_TEMPLATE, GENERATION_CONFIG = "chat_template.jinja", "generation_config.json"  # transformers' names
# Files of the folder that are the model; optimizer states, logs and other formats stay behind.
CONFIGURATION = ("config.json", GENERATION_CONFIG, "*tokenizer*", "vocab*", "merges.txt", "special_tokens*")
CONFIGURATION += (CHAT_TEMPLATE,)
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors")


def seal_checkpoint(directory: Path, **fields: Any) -> Manifest:
    """Write the manifest of a folder that transformers saved. `fields` override what the configuration says.

    Raises InvalidInput: not a folder of a supported shape, no fast tokenizer, no safetensors weights.
    """
    config = read_config(directory)
    kind = kind_of(config, directory)
    if not any(any(directory.glob(pattern)) for pattern in WEIGHTS):
        raise InvalidInput(f"{directory} has no model.safetensors; save it with safe_serialization=True.")
    if not (directory / "tokenizer.json").is_file():
        AutoTokenizer.from_pretrained(directory).save_pretrained(directory)
    if not (directory / "tokenizer.json").is_file():
        raise InvalidInput(f"{directory} has no tokenizer.json and its tokenizer has no fast form to make one from.")
    positive = fields.pop("positive", None)
    described = {
        "kind": kind,
        "format": "torch",
        "architecture": config.description if isinstance(config, PairClassifierConfig) else config.model_type,
        "precision": "fp32",
        "max_tokens": usable_positions(config),
        "pad_token_id": getattr(config, "pad_token_id", None) or 0,
        "versions": versions(),
        "git_commit": git_commit(),
    }
    if kind == "matching":
        described |= _labels(config, directory, positive)
    elif kind == "embedding":
        if positive is not None:
            raise InvalidInput(f"{directory} is a bi-encoder and has no labels; leave out --positive.")
        sentence_folder.apply_lower_case(directory)
        described["max_tokens"] = sentence_folder.max_tokens(config, directory)
        described["dimensions"] = sentence_folder.read_head(directory).dimensions(config.hidden_size)
        described["threshold"] = 0.5
    else:
        described["causal"] = causal_shape(config, directory)
        described["chat_template"] = write_chat_template(directory)
    return write_manifest(directory, **(described | fields))


def adopt_folder(
    source: Path, directory: Path, *, kind: Kind | None = None, pooling: str | None = None, **fields: Any
) -> Manifest:
    """Copy the model files of a folder into the new artifact `directory`; see `seal_checkpoint`.

    `kind` refuses another, and makes "embedding" of an encoder that is no sentence-transformers folder and has no head:
    a bi-encoder with `pooling` (default mean). Raises InvalidInput.
    """
    config = read_config(source)
    plain = kind == "embedding" and not sentence_folder.is_sentence_folder(source) and _is_headless(config)
    if pooling and not plain:
        raise InvalidInput(
            f"--pooling is for an encoder without a head that is published with --kind embedding; {source} is none."
        )
    if plain:
        sentence_folder.check_encoder(config, source)
    elif (found := kind_of(config, source)) != (kind or found):
        raise InvalidInput(f"{source} is of kind {found}, not {kind}.")
    directory.mkdir(parents=True, exist_ok=True)
    for pattern in (*CONFIGURATION, *WEIGHTS):
        for path in source.glob(pattern):
            shutil.copyfile(path, directory / path.name)
    if plain:
        bi_encoder.write_head(directory, [pooling or "mean"], config.hidden_size)
    elif sentence_folder.is_sentence_folder(source):
        sentence_folder.copy_modules(source, directory)
    return seal_checkpoint(directory, **fields)


def read_config(directory: Path) -> PretrainedConfig:
    """The folder's `config.json`. Raises InvalidInput when there is none or transformers cannot read it."""
    if not (directory / "config.json").is_file():
        raise InvalidInput(f"{directory} is not a model folder: it has no config.json.")
    register_networks()
    try:
        return AutoConfig.from_pretrained(directory)
    except Exception as error:  # whatever a foreign configuration makes the library raise
        raise InvalidInput(f"{directory}/config.json cannot be used: {error}") from None


def kind_of(config: PretrainedConfig, directory: Path) -> Kind:
    """embedding for a sentence-transformers folder, matching for …ForSequenceClassification, generation for the causal
    models and encoder-decoders that have a graph writer. Raises InvalidInput for anything else."""
    if sentence_folder.is_sentence_folder(directory):
        sentence_folder.check_encoder(config, directory)
        sentence_folder.read_head(directory)
        return "embedding"
    names = config.architectures or []
    if any(name.endswith("ForSequenceClassification") for name in names):
        return "matching"
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names) and config.model_type in GRAPH_WRITERS:
        return "generation"
    if any(name.endswith("ForConditionalGeneration") for name in names) and config.model_type in seq2seq_lm.SUPPORTED:
        return "generation"
    raise InvalidInput(
        f"{directory} holds {', '.join(names) or 'an unnamed architecture'}; supported are …ForSequenceClassification "
        f"encoders, sentence-transformers folders, causal models of type {', '.join(GRAPH_WRITERS)}, "
        f"…ForConditionalGeneration of type {', '.join(seq2seq_lm.SUPPORTED)}, and, with --kind embedding, encoders "
        "without a head."
    )


def _is_headless(config: PretrainedConfig) -> bool:
    """An encoder as such, or as masked language modelling left it."""
    names = config.architectures or []
    return not any(name.endswith("LMHeadModel") for name in names) and all(
        name.endswith(("Model", "ForMaskedLM", "ForPreTraining")) for name in names
    )


def end_tokens(config: PretrainedConfig, directory: Path) -> list[int | None]:
    """What ends a text: of `config.json`, and of `generation_config.json`, where chat models name the end of a turn.

    Raises InvalidInput when the latter cannot be read.
    """
    generation = generation_config(directory)
    sources = [config.eos_token_id, *([generation.eos_token_id] if generation else [])]
    each = [source if isinstance(source, list | tuple) else [source] for source in sources]
    return list(dict.fromkeys(token for tokens in each for token in tokens))


def generation_config(directory: Path) -> GenerationConfig | None:
    """The folder's `generation_config.json`, if it has one. Raises InvalidInput when it cannot be read."""
    if not (directory / GENERATION_CONFIG).is_file():
        return None
    try:
        return GenerationConfig.from_pretrained(directory)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{directory / GENERATION_CONFIG} cannot be used: {error}") from None


def causal_shape(config: PretrainedConfig, directory: Path) -> CausalShape:
    """The cache that the model itself would need; the graph writer may pad heads and then states its own.

    Raises InvalidInput when `generation_config.json` cannot be read, or does not say how an encoder-decoder begins.
    """
    ends = end_tokens(config, directory)
    # Of an encoder-decoder, what counts is the decoder's.
    heads = getattr(config, "decoder_attention_heads", None) or config.num_attention_heads
    begin = getattr(config, "bos_token_id", None)  # T5's has none

    def known(token: int | None) -> bool:
        # Library defaults name GPT-2's own end token even where the vocabulary is another.
        return token is not None and 0 <= token < config.vocab_size

    return CausalShape(
        layers=next(filter(None, (getattr(config, name, None) for name in LAYERS))),
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocab_size=config.vocab_size,
        bos_token_id=begin if known(begin) else None,
        eos_token_ids=tuple(token for token in ends if known(token)),
        start_token_ids=start_tokens(config, directory) if config.is_encoder_decoder else (),
    )


def start_tokens(config: PretrainedConfig, directory: Path) -> tuple[int, ...]:
    """What an encoder-decoder's text begins with: its start token, and the one that it is made to say next, if any.

    Raises InvalidInput where none is named.
    """
    generation = generation_config(directory)
    # Older folders name the second token in config.json alone, and its class does not keep it.
    written = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    sources = [generation.to_dict() if generation else {}, written, config.to_dict()]
    names = ("decoder_start_token_id", "forced_bos_token_id")
    named = [next((each[name] for each in sources if each.get(name) is not None), None) for name in names]
    if named[0] is None:
        raise InvalidInput(f"{directory}: no decoder_start_token_id in config.json or {GENERATION_CONFIG}; add it.")
    return tuple(token for token in named if token is not None)


def write_chat_template(directory: Path) -> str | None:
    """The file with the folder's chat template, made from `tokenizer_config.json` where older folders keep it; None
    where there is none. Of several templates, the one that is called default."""
    configuration = directory / "tokenizer_config.json"
    if not (directory / CHAT_TEMPLATE).is_file() and configuration.is_file():
        template = json.loads(configuration.read_text(encoding="utf-8")).get("chat_template")
        if isinstance(template, list):
            template = next((each["template"] for each in template if each["name"] == "default"), None)
        if template:
            (directory / CHAT_TEMPLATE).write_text(template, encoding="utf-8")
    return CHAT_TEMPLATE if (directory / CHAT_TEMPLATE).is_file() else None


def versions() -> dict[str, str]:
    """Versions of the libraries that shape an artifact."""
    return {name: library_version(name) for name in LIBRARIES}


def git_commit() -> str | None:
    """The commit of the code that runs, with "+" when the tree has changes; None outside git."""
    root = Path(__file__).parents[1]
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=root, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _labels(config: PretrainedConfig, directory: Path, positive: str | None) -> dict[str, Any]:
    labels = tuple(str(config.id2label[index]) for index in range(config.num_labels))
    if positive is not None and positive not in labels:
        raise InvalidInput(f"{positive!r} is none of the labels of {directory}: {', '.join(labels)}.")
    if positive is None and len(labels) > 2:
        raise InvalidInput(f"{directory} has the labels {', '.join(labels)}; say with --positive which one is a match.")
    index = labels.index(positive) if positive else len(labels) - 1
    return {"labels": labels, "positive_label": index, "threshold": 0.5}
