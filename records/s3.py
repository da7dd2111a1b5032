"""Storage in S3 or what speaks its protocol, through boto3; see `records/storage.py`.

Objects are read by ranges of one version: a reader may pause for as long as it likes, a broken connection costs one
range, and an object that is overwritten meanwhile is an error instead of a mixture.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, BinaryIO, NoReturn, TypeVar

from records.stored import StorageError, StoredObject, is_hidden

SCHEME = "s3://"
READ_AHEAD_BYTES = 8 << 20
# botocore repeats requests; a body that breaks off, and a write that met another one, are ours to repeat.
ATTEMPTS = 5
FIRST_PAUSE_S = 0.1
T = TypeVar("T")


def list_objects(url: str) -> list[StoredObject]:
    """The object `url`, or every object below it that is not hidden; markers of empty folders are no objects."""
    bucket, key = split(url)

    def collect() -> list[StoredObject]:
        found = []
        for page in client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key):
            for item in page.get("Contents", ()):
                # "in/a" lists "in/ab" too: only the object itself and what lies below the folder are meant.
                below = item["Key"].removeprefix(key.rstrip("/")).removeprefix("/")
                inside = not key or key.endswith("/") or item["Key"].startswith(f"{key}/")
                if not item["Key"].endswith("/") and (item["Key"] == key or (inside and not is_hidden(below))):
                    entry = StoredObject(f"{SCHEME}{bucket}/{item['Key']}", item["Size"], item["ETag"].strip('"'))
                    found.append(entry)
        return found

    return asking(url, collect)


@contextmanager
def open_stream(url: str) -> Iterator[BinaryIO]:
    """The object's bytes, read ahead by READ_AHEAD_BYTES."""
    with io.BufferedReader(_Object(url), READ_AHEAD_BYTES) as stream:
        yield stream


@contextmanager
def open_seekable(url: str) -> Iterator[BinaryIO]:
    """The object's bytes; each read is one request for just what was asked for."""
    with _Object(url) as stream:
        yield stream  # type: ignore[misc]  # a raw stream that never reads short


def exists(url: str) -> bool:
    """Whether there is an object of exactly this key."""
    bucket, key = split(url)

    def ask() -> bool:
        from botocore.exceptions import ClientError

        try:
            client().head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if _status(error) == 404:
                return False
            raise
        return True

    return asking(url, ask)


def put_if_absent(url: str, data: bytes) -> bool:
    """One PutObject with `If-None-Match: *`; returns whether it wrote."""
    bucket, key = split(url)

    def put() -> bool:
        from botocore.exceptions import ClientError

        for attempt in range(ATTEMPTS):
            try:
                client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
            except ClientError as error:
                if _status(error) == 412:
                    return False
                # 409: another conditional write of the key is under way; S3 asks to try again.
                if _status(error) != 409 or attempt == ATTEMPTS - 1:
                    raise
                time.sleep(FIRST_PAUSE_S * 2**attempt)
            else:
                break
        return True

    return asking(url, put)


class _Object(io.RawIOBase):
    """One version of an object as a seekable raw stream; a read is short only at the end."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._bucket, self._key = split(url)
        head = asking(url, lambda: client().head_object(Bucket=self._bucket, Key=self._key))
        self._size: int = head["ContentLength"]
        self._version: str = head["ETag"]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._next(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self._next(self._size)

    def _next(self, count: int) -> bytes:
        stop = min(self._position + count, self._size)
        if stop <= self._position:
            return b""
        data = asking(self._url, lambda: self._range(self._position, stop))
        self._position += len(data)
        return data

    def _range(self, start: int, stop: int) -> bytes:
        from botocore import exceptions

        wanted = {"Bucket": self._bucket, "Key": self._key, "Range": f"bytes={start}-{stop - 1}"}
        for attempt in range(ATTEMPTS):
            try:
                data: bytes = client().get_object(**wanted, IfMatch=self._version)["Body"].read()
            except (exceptions.HTTPClientError, exceptions.IncompleteReadError):
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(FIRST_PAUSE_S * 2**attempt)
            else:
                break
        if len(data) != stop - start:
            raise StorageError(f"{self._url}: {stop - start} bytes were asked for and {len(data)} came.")
        return data


def split(url: str) -> tuple[str, str]:
    """(bucket, key) of an `s3://` URL. Raises StorageError where it names no bucket."""
    bucket, _, key = url.removeprefix(SCHEME).partition("/")
    if not bucket:
        raise StorageError(f"{url!r} names no bucket; write s3://BUCKET/KEY.")
    return bucket, key


@lru_cache(maxsize=1)
def client() -> Any:
    """The one client of this process; thread-safe. It reads the environment when it is first asked for."""
    # Imported when the first s3:// URL is met: work on local files needs no boto3.
    import boto3
    from botocore.config import Config

    settings = Config(retries={"mode": "standard", "max_attempts": 4}, connect_timeout=10, read_timeout=60)
    session = boto3.Session()
    return session.client("s3", region_name=session.region_name or "us-east-1", config=settings)


def _status(error: Any) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


# What S3 says -> what to do about it.
_FIXES = {
    "NoSuchBucket": "there is no such bucket; create it or correct the name",
    "InvalidBucketName": "that is no bucket name; write s3://BUCKET/KEY",
    "NoSuchKey": "there is no such object",
    "404": "there is no such object",
    "PreconditionFailed": "the object was overwritten while it was read; start again",
    "AccessDenied": "access is denied; the credentials in use need rights on it",
    "403": "access is denied; the credentials in use need rights on it",
    "InvalidAccessKeyId": "the access key is not known there; check AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL",
    "SignatureDoesNotMatch": "the secret key is wrong; check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the session token has expired; sign in again",
    "NotImplemented": "the store cannot write under a condition (If-None-Match); use one that can",
}


def asking(url: str, ask: Callable[[], T]) -> T:
    """Run one request; what botocore raises becomes a StorageError that names the URL and the fix."""
    from botocore import exceptions

    try:
        return ask()
    except exceptions.NoCredentialsError:
        _refuse(url, "no AWS credentials are set; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    except exceptions.ClientError as error:
        told = error.response.get("Error", {})
        _refuse(url, _FIXES.get(told.get("Code", ""), f"S3 answered {told.get('Code')}: {told.get('Message')}"))
    except (exceptions.EndpointConnectionError, exceptions.ConnectionError, exceptions.HTTPClientError) as error:
        _refuse(url, f"S3 cannot be reached ({error}); check AWS_ENDPOINT_URL and the network")
    except exceptions.BotoCoreError as error:
        _refuse(url, str(error).rstrip("."))
    except ValueError as error:  # botocore's word for an endpoint that is no URL
        _refuse(url, f"{str(error).rstrip('.')}; check AWS_ENDPOINT_URL")


def _refuse(url: str, why: str) -> NoReturn:
    raise StorageError(f"{url}: {why}.") from None
