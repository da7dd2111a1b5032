"""`python -m benchmarks.generation.random_weights ARCHITECTURE FOLDER`: a GPT-2 or Llama in transformers' format, with
random weights, for measuring speed. By default 124 million parameters in twelve layers.

The tokenizer is a byte-level BPE made from the bundled text, filled up with words of its own to the size of GPT-2's
vocabulary. There is no end token: what is asked for is what is generated, here and in every peer.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXT = Path("training/samples/shakespeare/train.txt")
BEGIN = "<|begin|>"
MERGED = 8192  # the bundled text has no more pairs worth merging


def build(architecture: str, layers: int, hidden: int, vocab_size: int, context: int) -> torch.nn.Module:
    """A model with weights from a fixed seed, output layer tied to the embeddings."""
    torch.manual_seed(7)
    heads = max(1, hidden // 64)
    ends = {"bos_token_id": 0, "eos_token_id": None, "pad_token_id": None, "tie_word_embeddings": True}
    if architecture == "gpt2":
        shape = {"n_positions": context, "n_embd": hidden, "n_layer": layers, "n_head": heads}
        return GPT2LMHeadModel(GPT2Config(vocab_size=vocab_size, **shape, **ends))
    shape = {
        "hidden_size": hidden,
        "intermediate_size": hidden * 8 // 3,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": context,
    }
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **shape, **ends))


def tokenizer(vocab_size: int) -> Tokenizer:
    """`vocab_size` tokens: BEGIN, bytes, merges, and words that no text is cut into but a random model says."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(MERGED, vocab_size),
        special_tokens=[BEGIN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train([str(TEXT)], trainer)
    # The library takes more words only through its file format.

    file = json.loads(trained.to_str())
    vocabulary = file["model"]["vocab"]
    file["model"]["vocab"] = vocabulary | {f"Ġw{number}": number for number in range(len(vocabulary), vocab_size)}
    return Tokenizer.from_str(json.dumps(file))


def main(arguments: list[str]) -> int:
    """Writes the folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generation.random_weights", description=__doc__)
    parser.add_argument("architecture", choices=["gpt2", "llama"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--vocab-size", type=int, default=50_257)
    parser.add_argument("--context", type=int, default=1024)
    options = parser.parse_args(arguments)
    model = build(options.architecture, options.layers, options.hidden, options.vocab_size, options.context)
    model.generation_config.do_sample = False
    model.save_pretrained(options.folder)
    words = tokenizer(options.vocab_size)
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token=BEGIN, model_max_length=options.context).save_pretrained(
        options.folder
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
