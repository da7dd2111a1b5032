"""The artifact: a directory whose `manifest.json` says what it is and proves that it is whole.

Training, compression, evaluation, the model store, serving and batch hand such directories to each other.
This module reads, writes and verifies them; it loads no model.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runtime.errors import ArtifactRefused

SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"
# BentoML writes this file beside ours when a directory enters its store; it is not part of the artifact.
STORE_FILES = frozenset({"model.yaml"})

Kind = Literal["matching", "embedding", "generation"]
Format = Literal["torch", "onnx", "fake"]
Precision = Literal["fp32", "fp16", "int8", "int4"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class File(_Record):
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class Parity(_Record):
    """How far a step's output is from its parent's, and how far it may be."""

    metric: str
    value: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.value <= self.tolerance


class Step(_Record):
    """One compression step: what it did, and what it cost and gained against its parent."""

    name: str
    settings: dict[str, Any] = {}
    parity: Parity | None = None
    size_bytes: int
    latency_p50_ms: float | None = None
    memory_bytes: int | None = None  # most that a process of its own needed to load it and score the probe
    quality: dict[str, float] = {}


class Evaluation(_Record):
    """Quality on one split, measured through the runtime on the very files of this artifact."""

    split: str
    dataset_sha256: str
    rows: int
    metrics: dict[str, float]


class Verdict(_Record):
    """A release gate that this artifact was put through."""

    gate: str
    passed: bool
    at: datetime
    report_sha256: str
    summary: str


class CausalShape(_Record):
    """The KV cache of a language model, as its graph expects it. With `start_token_ids` it is an encoder-decoder: the
    prompt is a source, which its encoder reads as a whole, and the text begins after these tokens."""

    layers: int
    kv_heads: int
    head_dim: int  # as stored in the cache, padding included
    vocab_size: int
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    start_token_ids: tuple[int, ...] = ()

    @property
    def has_source(self) -> bool:
        """Whether it is an encoder-decoder. A slot then holds up to `context` tokens of a source, and as many of a
        text."""
        return bool(self.start_token_ids)

    @property
    def kv_bytes_per_token(self) -> int:
        """A key and a value a layer, in fp32; of an encoder-decoder, those of the source too."""
        return (2 if self.has_source else 1) * 2 * self.layers * self.kv_heads * self.head_dim * 4


class Manifest(_Record):
    """`manifest.json`. Unknown keys are refused; `files` lists every file of the directory but this one."""

    schema_version: Literal[1] = 1
    kind: Kind
    format: Format
    architecture: str  # the field's name: bert, roberta, gpt2, llama, …
    precision: Precision
    max_tokens: int = Field(gt=0)
    graph: str | None = None  # the file that the backend loads; None: the directory itself (torch)
    encoder_graph: str | None = None  # the same of an encoder-decoder's encoder
    tokenizer: str = "tokenizer.json"
    chat_template: str | None = None  # the Jinja file that writes a chat as a prompt; None: a base model
    pad_token_id: int = 0
    labels: tuple[str, ...] = ()
    positive_label: int | None = None  # index into `labels` whose probability is the score
    threshold: float | None = Field(default=None, ge=0, le=1)
    dimensions: int | None = Field(default=None, gt=0)  # of an embedding model's vectors
    causal: CausalShape | None = None
    files: dict[str, File]
    parent: str | None = None  # digest of the artifact this one was made from
    datasets: dict[str, str] = {}  # split -> sha256 of the rows
    seed: int | None = None
    git_commit: str | None = None
    versions: dict[str, str] = {}
    created: datetime
    evaluations: tuple[Evaluation, ...] = ()
    steps: tuple[Step, ...] = ()
    verdicts: tuple[Verdict, ...] = ()

    @property
    def digest(self) -> str:
        """sha256 over the files: the artifact's identity. Verdicts and evaluations may be added without changing it."""
        text = json.dumps({path: file.sha256 for path, file in sorted(self.files.items())}, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def decision_threshold(self) -> float:
        """The score from which on a pair is a match: the chosen one, else 0.5."""
        return 0.5 if self.threshold is None else self.threshold

    @property
    def match_labels(self) -> tuple[str, str]:
        """What a score below the threshold is called, and what one from it on is."""
        if not self.labels:
            return "no_match", "match"
        place = len(self.labels) - 1 if self.positive_label is None else self.positive_label
        # With three labels or more, below the threshold only "not the positive one" is known.
        below = self.labels[1 - place] if len(self.labels) == 2 else f"not_{self.labels[place]}"
        return below, self.labels[place]

    @property
    def size_bytes(self) -> int:
        """Bytes of the files that a backend loads: weights and graph, without tokenizer and texts."""
        return sum(file.bytes for path, file in self.files.items() if path.endswith((".onnx", ".data", ".safetensors")))


def library_version(name: str) -> str:
    """Version of an installed library; on a machine with a GPU, onnxruntime is installed as onnxruntime-gpu."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return importlib.metadata.version(f"{name}-gpu") + " (gpu)"


def sha256_file(path: Path) -> str:
    """Hex digest of one file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _files_below(directory: Path) -> Iterable[str]:
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory).as_posix()
        if path.is_file() and relative != MANIFEST_FILE and relative not in STORE_FILES:
            yield relative


def write_manifest(directory: Path, **fields: Any) -> Manifest:
    """Hash every file of `directory` and write its manifest. `fields`: those of Manifest, without `files`."""
    files = {
        name: File(sha256=sha256_file(directory / name), bytes=(directory / name).stat().st_size)
        for name in _files_below(directory)
    }
    manifest = Manifest(**{"created": datetime.now(UTC).replace(microsecond=0), **fields, "files": files})
    replace_manifest(directory, manifest)
    return manifest


def replace_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `manifest` over the directory's own, atomically (a reader sees the old or the new one, never half)."""
    temporary = directory / f".{MANIFEST_FILE}.{os.getpid()}"
    temporary.write_text(manifest.model_dump_json(indent=1, exclude_none=True) + "\n", encoding="utf-8")
    temporary.replace(directory / MANIFEST_FILE)


def read_manifest(directory: Path) -> Manifest:
    """Parse the manifest without touching the other files.

    Raises ArtifactRefused: no such directory or manifest, another schema version, unknown keys or bad values.
    """
    path = directory / MANIFEST_FILE
    try:
        raw: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactRefused(f"{directory} is not an artifact: it has no {MANIFEST_FILE}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactRefused(f"{path} is not JSON: {error}.") from None
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION:
        raise ArtifactRefused(
            f"{path} has schema_version {version!r}; this version reads {SCHEMA_VERSION}. Publish the model again."
        )
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        raise ArtifactRefused(f"{path} does not hold: {problems}.") from None


def verify(directory: Path) -> Manifest:
    """Read the manifest and check every file against it.

    Raises ArtifactRefused naming the first files that are missing, altered or not listed.
    """
    manifest = read_manifest(directory)
    present = set(_files_below(directory))
    missing = sorted(set(manifest.files) - present)
    unknown = sorted(present - set(manifest.files))
    altered = [
        name
        for name, file in sorted(manifest.files.items())
        if name in present and sha256_file(directory / name) != file.sha256
    ]
    problems = [
        f"{what}: {', '.join(names[:5])}"
        for what, names in (("missing", missing), ("altered", altered), ("not listed in the manifest", unknown))
        if names
    ]
    if problems:
        raise ArtifactRefused(f"Artifact {directory} is refused: {'; '.join(problems)}. Publish the model again.")
    return manifest
