"""Files on disk and objects in S3 behind the same few verbs: list, open, read, and write once.

A URL is a path or `s3://bucket/key`. Credentials, region and `AWS_ENDPOINT_URL` are boto3's own affair. What each verb
means on either side is in disk.py and s3.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from records import disk, s3
from records.stored import StorageError, StoredObject

__all__ = [
    "StorageError",
    "StoredObject",
    "exists",
    "join",
    "list_files",
    "list_objects",
    "open_seekable",
    "open_stream",
    "put_if_absent",
    "read_bytes",
]


def join(prefix: str, name: str) -> str:
    """`name` below the folder or key prefix `prefix`."""
    return f"{prefix.rstrip('/')}/{name}"


def list_objects(url: str) -> list[StoredObject]:
    """The file at `url`, or every file below it, sorted by URL.

    Names that begin with "." or "_" are left out below a folder (`_SUCCESS` and the like are not data).
    Raises StorageError where nothing can be listed; an empty folder, and an S3 prefix without objects, give an empty
    list.
    """
    found = s3.list_objects(url) if _in_s3(url) else disk.list_objects(Path(url))
    return sorted(found, key=lambda entry: entry.url)


def list_files(url: str) -> list[str]:
    """URLs of `list_objects`."""
    return [entry.url for entry in list_objects(url)]


@contextmanager
def open_stream(url: str) -> Iterator[BinaryIO]:
    """The bytes of `url`, read as they are needed. Raises StorageError, also in the middle of reading."""
    with s3.open_stream(url) if _in_s3(url) else disk.open_stream(Path(url)) as stream:
        yield stream


@contextmanager
def open_seekable(url: str) -> Iterator[BinaryIO]:
    """Like `open_stream`, for formats that are read from the end: nothing is read ahead."""
    with s3.open_seekable(url) if _in_s3(url) else disk.open_stream(Path(url)) as stream:
        yield stream


def read_bytes(url: str) -> bytes:
    """All bytes of `url`. Raises StorageError."""
    with open_stream(url) as stream:
        return stream.read()


def exists(url: str) -> bool:
    """Whether there is a file or object at exactly `url`. Raises StorageError where that cannot be told."""
    return s3.exists(url) if _in_s3(url) else disk.exists(Path(url))


def put_if_absent(url: str, data: bytes) -> bool:
    """Write `data` to `url` unless something is there; whole or not at all. Returns whether this call wrote it.

    S3: one PutObject with `If-None-Match: *`. Disk: a finished file without a name is linked to it, which fails if the
    name is taken. Raises StorageError.
    """
    return s3.put_if_absent(url, data) if _in_s3(url) else disk.put_if_absent(Path(url), data)


def _in_s3(url: str) -> bool:
    if url.startswith(s3.SCHEME):
        return True
    scheme, separator, _ = url.partition("://")
    if separator:
        raise StorageError(f"{url}: {scheme}:// is not known; write a path or s3://BUCKET/KEY.")
    return False
