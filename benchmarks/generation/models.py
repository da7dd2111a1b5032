"""The models of the generation benchmark: 124M GPT-2 and Llama shapes with random weights, fp32 and int8, each made
once by `training compress` and published to a store of their own."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from demo.commands import StepFailed, run
from runtime.store import ModelStore

PRECISIONS = ("int8", "fp32")
LOG = Path("reports/bench/models.log")
MAKERS = tuple(Path(f"training/{name}.py") for name in ("causal_graph", "compression/quantization"))


@dataclass(frozen=True, slots=True)
class Models:
    """`home`: where the folders in transformers' format and the store lie. `shape`: options of `random_weights`."""

    home: Path
    names: tuple[str, ...]
    shape: tuple[str, ...] = ()

    @property
    def store(self) -> Path:
        return (self.home / "store").absolute()

    def folder(self, model: str) -> Path:
        """The model in transformers' format, for peers."""
        return self.home / model

    def name(self, model: str, precision: str) -> str:
        """Its name in the store."""
        return f"{model}-{precision}"

    def artifact(self, model: str, precision: str) -> Path:
        """The artifact in the store. Raises SluiceError when it has not been made."""
        return ModelStore(self.store).resolve(f"{self.name(model, precision)}:production", "generation").path

    def make(self) -> None:
        """Whatever is missing or was made by other code than there is now. Raises StepFailed."""
        self.store.mkdir(parents=True, exist_ok=True)
        maker = makers_digest()
        for model in self.names:
            stamp = self.home / f"{model}.made-by"
            if not stamp.is_file() or stamp.read_text(encoding="utf-8") != maker:
                self._make(model)
                stamp.write_text(maker, encoding="utf-8")  # last, so that an interrupted run is made again

    def _make(self, model: str) -> None:
        folder = self.folder(model)
        if not (folder / "tokenizer.json").is_file():
            command = [sys.executable, "-m", "benchmarks.generation.random_weights", model, str(folder)]
            if subprocess.run([*command, *self.shape], check=False).returncode:
                raise StepFailed(f"The {model} with random weights could not be made in {folder}.")
        run_folder = self.home / "compressed" / model
        shutil.rmtree(run_folder, ignore_errors=True)
        run("training", "compress", str(folder), "--run", str(run_folder), log=LOG)
        environ = {"BENTOML_HOME": str(self.store), "BENTOML_DO_NOT_TRACK": "True"}
        for precision in PRECISIONS:
            how = ["--name", self.name(model, precision), "--promote"]
            run("training", "publish", str(run_folder / precision), *how, log=LOG, environ=environ)


def makers_digest() -> str:
    """Of the code that makes the graphs: artifacts of other code are made again."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in MAKERS)).hexdigest()
