"""Files on disk and objects in S3 behind the same few verbs: list, open, read, and write once.

A URL is a path or `s3://bucket/key`. Credentials, region and `AWS_ENDPOINT_URL` are boto3's own affair.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

S3 = "s3://"
# A conditional write may lose to another one that is under way (409); S3 asks to try again.
CONFLICT_RETRIES = 5
T = TypeVar("T")


class StorageError(OSError):
    """A file or object cannot be listed, read or written; the message names it, the cause and the fix."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One file. `version` changes when its content does: the ETag, or size and modification time."""

    url: str
    size_bytes: int
    version: str


def join(prefix: str, name: str) -> str:
    """`name` below the folder or key prefix `prefix`."""
    return f"{prefix.rstrip('/')}/{name}"


def list_objects(url: str) -> list[StoredObject]:
    """The file at `url`, or every file below it, sorted by URL.

    Names that begin with "." or "_" are left out below a folder (`_SUCCESS` and the like are not data).
    Raises StorageError where nothing can be listed; an empty folder gives an empty list.
    """
    if not url.startswith(S3):
        return _list_local(Path(url))
    bucket, key = _split(url)

    def collect() -> list[StoredObject]:
        found = []
        for page in _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key):
            for item in page.get("Contents", ()):
                # "in/a" lists "in/ab" too: only the object itself and what lies below the folder are meant.
                below = item["Key"].removeprefix(key.rstrip("/")).removeprefix("/")
                inside = not key or key.endswith("/") or item["Key"].startswith(f"{key}/")
                if item["Key"] == key or (inside and not _hidden(below)):
                    entry = StoredObject(f"{S3}{bucket}/{item['Key']}", item["Size"], item["ETag"].strip('"'))
                    found.append(entry)
        return found

    return sorted(_asking(url, collect), key=lambda entry: entry.url)


def list_files(url: str) -> list[str]:
    """URLs of `list_objects`."""
    return [entry.url for entry in list_objects(url)]


@contextmanager
def open_stream(url: str) -> Iterator[BinaryIO]:
    """The bytes of `url`, read as they are needed. Raises StorageError, also in the middle of reading."""
    if not url.startswith(S3):
        try:
            with Path(url).open("rb") as stream:
                yield stream
        except OSError as error:
            raise _local_error(url, error) from None
        return
    bucket, key = _split(url)
    body = _asking(url, lambda: _client().get_object(Bucket=bucket, Key=key)["Body"])
    with body, io.BufferedReader(_Body(url, body), 1 << 20) as stream:
        yield stream


@contextmanager
def open_seekable(url: str) -> Iterator[BinaryIO]:
    """Like `open_stream`, for formats that are read from the end: an S3 object is copied to a temporary file first."""
    with open_stream(url) as stream:
        if not url.startswith(S3):
            yield stream
            return
        with tempfile.TemporaryFile() as copy:
            while chunk := stream.read(1 << 20):
                copy.write(chunk)
            copy.seek(0)
            yield copy


def read_bytes(url: str) -> bytes:
    """All bytes of `url`. Raises StorageError."""
    with open_stream(url) as stream:
        return stream.read()


def exists(url: str) -> bool:
    """Whether there is a file or object at exactly `url`. Raises StorageError where that cannot be told."""
    if not url.startswith(S3):
        return Path(url).is_file()
    bucket, key = _split(url)

    def ask() -> bool:
        from botocore.exceptions import ClientError

        try:
            _client().head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return False
            raise
        return True

    return _asking(url, ask)


def put_if_absent(url: str, data: bytes) -> bool:
    """Write `data` to `url` unless something is there; whole or not at all. Returns whether this call wrote it.

    S3: one PutObject with `If-None-Match: *`. Disk: a finished temporary file is linked to the name, which fails if the
    name is taken. Raises StorageError.
    """
    if not url.startswith(S3):
        return _link_if_absent(Path(url), data)
    bucket, key = _split(url)

    def put() -> bool:
        from botocore.exceptions import ClientError

        for attempt in range(CONFLICT_RETRIES):
            try:
                _client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
            except ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                if status == 412:
                    return False
                if status != 409 or attempt == CONFLICT_RETRIES - 1:
                    raise
            else:
                return True
        raise AssertionError("unreachable")

    return _asking(url, put)


# ---------------------------------------------------------------- disk


def _list_local(path: Path) -> list[StoredObject]:
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file() and not _hidden(file.relative_to(path).as_posix())]
    else:
        raise StorageError(f"{path}: no such file or folder.")
    stats = [(file, file.stat()) for file in files]
    found = [StoredObject(str(file), stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}") for file, stat in stats]
    return sorted(found, key=lambda entry: entry.url)


def _hidden(relative: str) -> bool:
    return not relative or any(part.startswith((".", "_")) for part in relative.split("/"))


def _link_if_absent(path: Path, data: bytes) -> bool:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
    except OSError as error:
        raise _local_error(str(path), error) from None
    return True


def _local_error(url: str, error: OSError) -> StorageError:
    return error if isinstance(error, StorageError) else StorageError(f"{url}: {error.strerror or error}.")


# ---------------------------------------------------------------- S3


class _Body(io.RawIOBase):
    """botocore's streaming body as a raw stream whose errors are ours."""

    def __init__(self, url: str, body: Any) -> None:
        self._url = url
        self._body = body

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = _asking(self._url, lambda: self._body.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)


def _split(url: str) -> tuple[str, str]:
    bucket, _, key = url.removeprefix(S3).partition("/")
    if not bucket:
        raise StorageError(f"{url!r} names no bucket; write s3://BUCKET/KEY.")
    return bucket, key


@lru_cache(maxsize=1)
def _client() -> Any:
    # Imported when the first s3:// URL is met: work on local files needs no boto3.
    import boto3
    from botocore.config import Config

    settings = Config(retries={"mode": "standard", "max_attempts": 4}, connect_timeout=10, read_timeout=60)
    session = boto3.Session()
    return session.client("s3", region_name=session.region_name or "us-east-1", config=settings)


# What S3 says -> what to do about it.
_FIXES = {
    "NoSuchBucket": "there is no such bucket; create it or correct the name",
    "NoSuchKey": "there is no such object",
    "404": "there is no such object",
    "AccessDenied": "access is denied; the credentials in use need rights on it",
    "403": "access is denied; the credentials in use need rights on it",
    "InvalidAccessKeyId": "the access key is not known there; check AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL",
    "SignatureDoesNotMatch": "the secret key is wrong; check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the session token has expired; sign in again",
}


def _asking(url: str, ask: Callable[[], T]) -> T:
    """Run one request; what botocore raises becomes a StorageError that names the URL and the fix."""
    from botocore import exceptions

    try:
        return ask()
    except exceptions.NoCredentialsError:
        message = "no AWS credentials are set; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    except exceptions.ClientError as error:
        told = error.response.get("Error", {})
        message = _FIXES.get(told.get("Code", ""), f"S3 answered {told.get('Code')}: {told.get('Message')}")
    except (exceptions.EndpointConnectionError, exceptions.ConnectionError, exceptions.HTTPClientError) as error:
        message = f"S3 cannot be reached ({error}); check AWS_ENDPOINT_URL and the network"
    except (exceptions.BotoCoreError, exceptions.ParamValidationError) as error:
        message = str(error)
    raise StorageError(f"{url}: {message}.")
