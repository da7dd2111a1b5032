"""Which artifact of a run was made from which, by what steps, and what a reader calls them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.manifest import read_manifest
from training.explain.contract import Subject


@dataclass(frozen=True, slots=True)
class Link:
    """An artifact and its parent, with their names and the steps between the two."""

    artifact: Path
    parent: Path
    name: str
    parent_name: str
    steps: tuple[str, ...]


def links(subject: Subject) -> Iterator[Link]:
    """Every artifact of the subject whose parent lies there too."""
    by_digest = {read_manifest(each).digest: each for each in subject.artifacts}
    for artifact in subject.artifacts:
        manifest = read_manifest(artifact)
        parent = by_digest.get(manifest.parent or "")
        if parent is not None:
            known = len(read_manifest(parent).steps)
            steps = tuple(step.name for step in manifest.steps[known:])
            yield Link(artifact, parent, name_of(artifact, subject), name_of(parent, subject), steps)


def name_of(artifact: Path, subject: Subject) -> str:
    """How a reader knows an artifact: its place in the run."""
    return artifact.relative_to(subject.run).as_posix() if subject.run else artifact.name
