"""What every kind of storage hands out: an entry of a listing, and the one error."""

from __future__ import annotations

from dataclasses import dataclass


class StorageError(OSError):
    """A file or object cannot be listed, read or written; the message names it, the cause and the fix."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One file. `version` changes when its content does: the ETag, or size and modification time."""

    url: str
    size_bytes: int
    version: str


def is_hidden(relative: str) -> bool:
    """Whether a path below a folder is none of its data: a part of it begins with "." or "_", as `_SUCCESS` does."""
    return not relative or any(part.startswith((".", "_")) for part in relative.split("/"))
