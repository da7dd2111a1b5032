"""CTranslate2's generator, raw: `python ctranslate2_raw.py FOLDER PRECISION THREADS PORT`.

FOLDER is the model in transformers' format; what is converted from it is kept beside it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ctranslate2
from ctranslate2.converters import TransformersConverter
from raw_server import serve

TYPES = {"fp32": "float32", "int8": "int8"}


def convert(folder: Path, precision: str, converted: Path) -> None:
    """The model in CTranslate2's format."""
    TransformersConverter(str(folder)).convert(str(converted), quantization=TYPES[precision])
    path = converted / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    # It cannot do without special tokens; every length is asked for exactly, so none of them is ever generated.
    config |= {name: "<|begin|>" for name, value in config.items() if name.endswith("_token") and value is None}
    path.write_text(json.dumps(config), encoding="utf-8")


def main(folder: Path, precision: str, threads: int, port: int) -> None:
    """Convert where that was not done before, load, serve."""
    converted = folder.with_name(f"{folder.name}-ctranslate2-{precision}")
    if not converted.is_dir():
        convert(folder, precision, converted)
    generator = ctranslate2.Generator(
        str(converted), device="cpu", compute_type=TYPES[precision], inter_threads=1, intra_threads=threads
    )
    vocabulary = json.loads((converted / "vocabulary.json").read_text(encoding="utf-8"))

    def generate(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        results = generator.generate_batch(
            [[vocabulary[token] for token in prompt] for prompt in prompts],
            beam_size=1,
            sampling_topk=1,
            max_length=tokens,
            min_length=tokens,
            include_prompt_in_result=False,
        )
        return [result.sequences_ids[0] for result in results]

    serve(port, generate)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
