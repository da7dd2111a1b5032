"""A GPT-2 or Llama folder of transformers as llama.cpp's file: `python gguf_model.py FOLDER PRECISION TARGET`.

llama.cpp's own converter knows tokenizers by name and refuses one that was made here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

TYPES = {"fp32": gguf.GGMLQuantizationType.F32, "int8": gguf.GGMLQuantizationType.Q8_0}
GPT2 = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
LLAMA = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
WHOLE = {
    "transformer.wte.weight": "token_embd.weight",
    "transformer.wpe.weight": "position_embd.weight",
    "transformer.ln_f.weight": "output_norm.weight",
    "transformer.ln_f.bias": "output_norm.bias",
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
}


def renamed(name: str, value: np.ndarray, heads: int) -> tuple[str, np.ndarray]:
    """llama.cpp's name of a weight, and its values as it wants them: (out, in), rotary pairs side by side."""
    if name in WHOLE:
        return WHOLE[name], value
    _, _, layer, *path, part = name.split(".")
    module = ".".join(path)
    names = GPT2 if module in GPT2 else LLAMA
    if names is GPT2 and value.ndim == 2:
        value = value.T
    if module in {"self_attn.q_proj", "self_attn.k_proj"}:
        size, width = value.shape
        value = value.reshape(heads, 2, size // heads // 2, width).swapaxes(1, 2).reshape(size, width)
    return f"blk.{layer}.{names[module]}.{part}", np.ascontiguousarray(value)


def write_shape(writer: gguf.GGUFWriter, config: dict[str, Any]) -> int:
    """The settings of the architecture; returns its number of heads."""
    if config["model_type"] == "gpt2":
        heads, layers, width = config["n_head"], config["n_layer"], config["n_embd"]
        context, inner = config["n_positions"], 4 * width
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    else:
        heads, layers, width = config["num_attention_heads"], config["num_hidden_layers"], config["hidden_size"]
        context, inner = config["max_position_embeddings"], config["intermediate_size"]
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_rope_dimension_count(width // heads)
        writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_block_count(layers)
    writer.add_head_count(heads)
    writer.add_vocab_size(config["vocab_size"])
    return int(heads)


def write_tokenizer(writer: gguf.GGUFWriter, tokenizer: dict[str, Any]) -> None:
    """The byte-level BPE."""
    vocabulary = tokenizer["model"]["vocab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.get))
    writer.add_token_types([gguf.TokenType.NORMAL] * len(vocabulary))
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_add_bos_token(False)


def main(folder: Path, precision: str, target: Path) -> None:
    """Write the file."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(str(target), config["model_type"])
    heads = write_shape(writer, config)
    write_tokenizer(writer, json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")))
    for name, value in load_file(folder / "model.safetensors").items():
        if name == "lm_head.weight":
            continue  # tied
        target_name, value = renamed(name, value.astype(np.float32), heads)
        kind = TYPES[precision]
        if value.ndim < 2 or target_name.startswith("position_embd"):
            kind = gguf.GGMLQuantizationType.F32
        writer.add_tensor(target_name, gguf.quants.quantize(value, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
