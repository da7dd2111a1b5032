"""What was deployed to a stack, release by release, so that the previous one can come back.

CloudFormation remembers only the present. A release is one JSON file, 0001.json and on, in a folder or below an S3
prefix; it is written once, after the deployment succeeded, and never overwritten.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import boto3
from botocore.exceptions import ClientError
from pydantic import BaseModel, ConfigDict, ValidationError

from infra.errors import InfraError


class Release(BaseModel):
    """One successful deployment. `restores` is the number of the release that a rollback brought back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    number: int
    stack: str
    at: datetime
    action: Literal["found", "deploy", "rollback"]
    restores: int | None = None
    template: str
    parameters: dict[str, str]


class Shelf(Protocol):
    """Where files are put once and read back; names sort in the order in which they were put."""

    def names(self) -> list[str]:
        """Return the names of all files, sorted."""
        ...

    def read(self, name: str) -> str:
        """Return the text of a file."""
        ...

    def put(self, name: str, text: str) -> bool:
        """Write a new file; returns False, and writes nothing, if there already is one of that name."""
        ...


class Folder:
    """A shelf on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        return sorted(entry.name for entry in self.path.glob("*.json"))

    def read(self, name: str) -> str:
        return (self.path / name).read_text(encoding="utf-8")

    def put(self, name: str, text: str) -> bool:
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with (self.path / name).open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            return False
        return True


class Bucket:
    """A shelf below an S3 prefix; the put is conditional, so that of two writers one wins."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket, self.prefix = bucket, prefix
        self.s3: Any = boto3.client("s3")

    def names(self) -> list[str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{self.prefix}/")
        keys = (row["Key"] for page in pages for row in page.get("Contents", []))
        return sorted(key.removeprefix(f"{self.prefix}/") for key in keys if key.endswith(".json"))

    def read(self, name: str) -> str:
        return str(self.s3.get_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}")["Body"].read().decode())

    def put(self, name: str, text: str) -> bool:
        try:
            self.s3.put_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}", Body=text.encode(), IfNoneMatch="*")
        except ClientError as error:
            if error.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict"):
                return False
            raise
        return True


class History:
    """The releases of one stack, oldest first."""

    def __init__(self, location: str, stack: str) -> None:
        """Look below a folder or `s3://bucket/prefix`; raises InfraError if an S3 location names no bucket."""
        self.stack = stack
        self.location = location
        if location.startswith("s3://"):
            bucket, _, prefix = location.removeprefix("s3://").partition("/")
            if not bucket:
                raise InfraError(f"{location!r} names no bucket; write s3://bucket/prefix")
            self.shelf: Shelf = Bucket(bucket, f"{prefix.strip('/')}/{stack}".lstrip("/"))
        else:
            self.shelf = Folder(Path(location) / stack)

    def releases(self) -> list[Release]:
        """Return all releases; raises InfraError naming a file that is not one."""
        found = []
        for name in self.shelf.names():
            try:
                found.append(Release.model_validate_json(self.shelf.read(name)))
            except ValidationError as error:
                raise InfraError(f"{self.location}/{self.stack}/{name} is not a release: {error}") from error
        return found

    def append(
        self,
        action: Literal["found", "deploy", "rollback"],
        template: str,
        parameters: Mapping[str, str],
        restores: int | None = None,
    ) -> Release:
        """Write the next release; raises InfraError if somebody else wrote one at the same time."""
        number = len(self.shelf.names()) + 1
        release = Release(
            number=number,
            stack=self.stack,
            at=datetime.now(UTC),
            action=action,
            restores=restores,
            template=template,
            parameters=dict(parameters),
        )
        if not self.shelf.put(f"{number:04}.json", release.model_dump_json(indent=2)):
            raise InfraError(f"{self.location}: release {number} of {self.stack} was just written by somebody else")
        return release


def previous(releases: list[Release]) -> Release:
    """Return the release before the one that runs now, seeing through rollbacks; raises InfraError if there is none."""
    if not releases:
        raise InfraError(
            "no release is recorded, so there is none to go back to; was --history the same as for deploy?"
        )
    by_number = {release.number: release for release in releases}
    now = releases[-1].restores or releases[-1].number
    before = by_number.get(now - 1)
    if before is None:
        raise InfraError(f"release {now}, which runs now, is the oldest one recorded")
    return by_number[before.restores] if before.restores else before
