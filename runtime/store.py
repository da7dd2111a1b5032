"""Where published artifacts lie, and which of them is in production.

Reads BentoML's model store as the directories it is (`models/NAME/VERSION`), so that batch jobs and the serving
process resolve names the same way without importing BentoML; only `training/publish.py` writes models. Stage pointers
live beside it in `stages/NAME.json`: current holders and the whole history, replaced atomically under a file lock.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from runtime.errors import ArtifactRefused, InvalidInput, ModelNotFound
from runtime.manifest import Kind, Manifest, read_manifest

Stage = Literal["production", "candidate", "previous"]
STAGES: tuple[str, ...] = get_args(Stage)


class Move(BaseModel):
    """One line of a name's history: `stage` was given to `tag` (None: it was emptied)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: Stage
    tag: str | None
    at: datetime
    why: str


class Pointers(BaseModel):
    """`stages/NAME.json`: who holds each stage, and how it came to be."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: Literal[1] = 1
    stages: dict[Stage, str] = {}
    history: tuple[Move, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """A published artifact: its tag `name:version`, directory, manifest and the stages it holds."""

    tag: str
    path: Path
    manifest: Manifest
    stages: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.tag.partition(":")[0]


class ModelStore:
    """The model store below `home` (BENTOML_HOME). Reading needs no lock; moving a stage takes one a name."""

    def __init__(self, home: Path) -> None:
        self.home = home

    # ------------------------------------------------------------ reading

    def names(self) -> list[str]:
        """Names that have at least one version."""
        models = self.home / "models"
        return sorted(d.name for d in models.iterdir() if d.is_dir()) if models.is_dir() else []

    def entries(self, name: str | None = None) -> list[Entry]:
        """Every published artifact (of `name`), oldest first. Directories that are not ours are left out."""
        found = []
        for each in [name] if name else self.names():
            directory = self.home / "models" / each
            versions = sorted(d for d in directory.iterdir() if d.is_dir()) if directory.is_dir() else []
            found += [self._entry(each, v.name) for v in versions if (v / "manifest.json").is_file()]
        return sorted(found, key=lambda entry: (entry.name, entry.manifest.created, entry.tag))

    def pointers(self, name: str) -> Pointers:
        """The stages of `name`; empty where none was ever set. Raises ArtifactRefused on a damaged file."""
        path = self._pointer_path(name)
        try:
            return Pointers.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return Pointers()
        except ValidationError as error:
            raise ArtifactRefused(f"{path} is damaged: {error.errors()[0]['msg']}. Restore or remove it.") from None

    def marks(self) -> dict[str, tuple[int, int, int]]:
        """For each name that has stages, what changes whenever one of them moves. Costs a stat a name."""
        marks = {}
        with suppress(FileNotFoundError):
            for path in (self.home / "stages").glob("*.json"):
                with suppress(FileNotFoundError):
                    state = path.stat()
                    # A move writes a new file with a longer history: size and inode tell moves within one clock tick.
                    marks[path.stem] = (state.st_mtime_ns, state.st_ino, state.st_size)
        return marks

    def resolve(self, reference: str, kind: Kind | None = None) -> Entry:
        """`name`, `name:version`, `name:stage`, or a stage alone when one model (of `kind`) holds it.

        A bare name means its production version, else its newest. Raises ModelNotFound, with what there is.
        """
        if reference in STAGES:
            return self._sole_holder(reference, kind)
        name, _, version = reference.partition(":")
        if "/" in reference or name in {"", ".", ".."} or version in {".", ".."}:
            raise InvalidInput(f"{reference!r} is not a model reference; write NAME, NAME:VERSION or NAME:STAGE.")
        held = self.pointers(name).stages
        if version in STAGES or (not version and "production" in held):
            stage = version or "production"
            if stage not in held:
                raise ModelNotFound(
                    f"No version of {name!r} is {stage}; promote one with "
                    f"`python -m training models promote {name}:VERSION`. {self._inventory()}"
                )
            version = held[stage].partition(":")[2]
        elif version in {"", "latest"}:
            entries = self.entries(name)
            if not entries:
                raise ModelNotFound(f"No model is named {name!r}. {self._inventory()}")
            return entries[-1]
        if not (self.home / "models" / name / version / "manifest.json").is_file():
            raise ModelNotFound(f"No model is tagged {name}:{version}. {self._inventory()}")
        return self._entry(name, version)

    def _entry(self, name: str, version: str) -> Entry:
        path = self.home / "models" / name / version
        tag = f"{name}:{version}"
        stages = tuple(stage for stage, holder in self.pointers(name).stages.items() if holder == tag)
        return Entry(tag, path, read_manifest(path), stages)

    def _sole_holder(self, stage: str, kind: Kind | None) -> Entry:
        staged = [self.resolve(f"{name}:{stage}") for name in self.names() if stage in self.pointers(name).stages]
        holders = [entry for entry in staged if kind is None or entry.manifest.kind == kind]
        if len(holders) == 1:
            return holders[0]
        what = ", ".join(entry.tag for entry in holders) or "none"
        raise ModelNotFound(
            f"{stage!r} alone needs exactly one holder{f' of kind {kind}' if kind else ''}; there is {what}."
        )

    def _inventory(self) -> str:
        names = self.names()
        return f"The store {self.home} has: {', '.join(names)}." if names else f"The store {self.home} is empty."

    # ------------------------------------------------------------ moving stages

    def promote(self, reference: str, stage: Stage = "production", why: str = "promoted") -> Entry:
        """Give `stage` to a published version; who held production becomes `previous`. Returns the entry."""
        entry = self.resolve(reference)
        with self._locked(entry.name) as pointers:
            stages: dict[Stage, str] = dict(pointers.stages)
            moves: list[tuple[Stage, str | None]] = []
            old = stages.get(stage)
            if old == entry.tag:
                return entry
            if stage == "production" and old:
                moves.append(("previous", old))
            moves.append((stage, entry.tag))
            self._write(entry.name, pointers, moves, why)
        return self.resolve(entry.tag)

    def rollback(self, name: str, why: str = "rolled back") -> Entry:
        """Swap production and previous. Raises ModelNotFound where there is nothing to go back to."""
        with self._locked(name) as pointers:
            current, previous = pointers.stages.get("production"), pointers.stages.get("previous")
            if current is None or previous is None:
                raise ModelNotFound(f"{name!r} has no previous production version to roll back to.")
            if not (self.home / "models" / previous.replace(":", "/", 1) / "manifest.json").is_file():
                raise ModelNotFound(f"{previous}, the previous version, is no longer in the store.")
            self._write(name, pointers, [("production", previous), ("previous", current)], why)
        return self.resolve(f"{name}:production")

    def _pointer_path(self, name: str) -> Path:
        return self.home / "stages" / f"{name}.json"

    @contextmanager
    def _locked(self, name: str) -> Iterator[Pointers]:
        directory = self.home / "stages"
        directory.mkdir(parents=True, exist_ok=True)
        # The lock file is separate and never replaced: locking the pointer file itself would lock an inode that the
        # atomic replace throws away.
        with (directory / f".{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self.pointers(name)

    def _write(self, name: str, before: Pointers, moves: list[tuple[Stage, str | None]], why: str) -> None:
        stages: dict[Stage, str | None] = {**before.stages, **dict(moves)}
        now = datetime.now(UTC).replace(microsecond=0)
        after = Pointers(
            stages={stage: tag for stage, tag in stages.items() if tag},
            history=(*before.history, *(Move(stage=stage, tag=tag, at=now, why=why) for stage, tag in moves)),
        )
        path = self._pointer_path(name)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(json.dumps(after.model_dump(mode="json"), indent=1) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)


def store_home(environ: Mapping[str, str]) -> Path:
    """BENTOML_HOME, else BentoML's own default."""
    return Path(environ.get("BENTOML_HOME") or Path.home() / "bentoml").expanduser()
