"""onnxruntime-genai's generator, raw: `python genai_raw.py FOLDER PRECISION THREADS PORT`.

FOLDER is a Llama in transformers' format; what its model builder makes of it is kept beside it. A batch is decoded
together to its end, which is what its own engine does on a CPU.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime_genai
from raw_server import serve

# int8: blocks of 32 weights, activations rounded to int8 too, as in the graphs that it is compared with.
OPTIONS = {
    "fp32": ["-p", "fp32"],
    "int8": ["-p", "int8", "--extra_options", "int4_block_size=32", "int4_accuracy_level=4"],
}


def build(folder: Path, precision: str, threads: int) -> Path:
    """The folder with graph and settings."""
    built = folder.with_name(f"{folder.name}-genai-{precision}")
    if not (built / "genai_config.json").is_file():
        command = [
            sys.executable,
            "-m",
            "onnxruntime_genai.models.builder",
            "-i",
            str(with_end(folder)),
            "-o",
            str(built),
        ]
        command += ["-e", "cpu", "-c", str(folder.with_name("genai-cache")), *OPTIONS[precision]]
        subprocess.run(command, check=True)
    path = built / "genai_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")
    return built


def with_end(folder: Path) -> Path:
    """The folder again, with an end token: the builder wants one. Lengths are asked for exactly, so it never comes."""
    copy = folder.with_name(f"{folder.name}-genai-source")
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps({**config, "eos_token_id": config["bos_token_id"]}), encoding="utf-8")
    return copy


def main(folder: Path, precision: str, threads: int, port: int) -> None:
    """Build where that was not done before, load, serve."""
    model = onnxruntime_genai.Model(str(build(folder, precision, threads)))

    def generate(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        length = len(prompts[0])
        parameters = onnxruntime_genai.GeneratorParams(model)
        parameters.set_search_options(
            batch_size=len(prompts), do_sample=False, max_length=length + tokens, min_length=length + tokens
        )
        generator = onnxruntime_genai.Generator(model, parameters)
        generator.append_tokens(prompts)
        for _ in range(tokens):
            generator.generate_next_token()
        return [generator.get_sequence(row)[length:].tolist() for row in range(len(prompts))]

    serve(port, generate)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
